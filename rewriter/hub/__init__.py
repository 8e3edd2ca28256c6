"""Names → sources → generators, and back: publish, cards, licences, the page as a Space."""
