import asyncio
import hashlib
import io
import json
import time

import pytest
import torch

from rewriter.evaluation import serve
from rewriter.evaluation.isolation import PAGE, Plain, apart, mixed_up, told_apart
from rewriter.masks import MAX_TEXT
from rewriter.pictures import enlarged, to_image
from rewriter.serving.load import Click, Marks, Site, Visitor

KEY = ("3 at once", 0)


def answer(status, data, **headers):
    lines = [f"HTTP/1.1 {status} words", f"Content-Length: {len(data)}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + data


def lines(*parts):
    """An answer in chunks, as a stream comes, with signs of life."""
    chunks = [b"\n", *(json.dumps(part).encode() + b"\n" for part in parts)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body


END = b"0\r\n\r\n"


def clicked(answers, *, seconds=5.0, clicks=1):
    """What a visitor makes of a server that answers so, and what it sent; pictures are their own names."""
    asked, left = [], list(answers)

    async def serve_one(reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path, size = head.split()[1].decode(), int(head.lower().partition(b"content-length:")[2].split()[0])
                body = await reader.readexactly(size)
                if path.startswith("/rewriter/pictures/"):
                    writer.write(answer(404, b"") if path.endswith("gone") else answer(200, path.encode()))
                    continue
                asked.append(json.loads(body))
                data = left.pop(0)
                writer.write(data)
                if not data.endswith(END) and b"Content-Length" not in data:  # it breaks off
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def run():
        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        site = Site(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        visitor, shown = Visitor(site, KEY, 0, time.monotonic() + seconds), {}
        for _ in range(clicks):
            shown = await visitor.click("copy", "mark", ["copy", "1:x"])
        site.close()
        server.close()
        return visitor, shown

    return *asyncio.run(run()), asked


def test_a_click_that_is_refused_waits_as_told_and_comes_again():
    refused = answer(429, b'{"message": "not now", "wait": 0.2}')
    visitor, _, asked = clicked([refused, answer(503, b"", **{"Retry-After": 0}), lines({"end": True}) + END])
    (click,) = visitor.clicks
    assert (click.ended, click.refused, click.resent, len(asked)) == (True, 2, 0, 3) and click.seconds > 0.2


def test_a_stream_that_breaks_off_is_asked_for_again_with_the_whole_record():
    first = lines({"film": {"tiles": []}}, {"end": True, "record": "work.signed"}) + END
    visitor, shown, asked = clicked([first, lines({"progress": None}), lines({"bar": 1, "end": True}) + END], clicks=2)
    assert not visitor.lost and visitor.clicks[1].resent == 1 and shown["bar"] == 1
    assert asked[0]["record"] is None and "record" not in asked[1]
    assert asked[1]["known"] == hashlib.sha256(b"work.signed").hexdigest() and asked[2]["record"] == "work.signed"


def test_a_server_that_does_not_know_the_record_gets_it():
    first = lines({"end": True, "record": "work.signed"}) + END
    visitor, _, asked = clicked([first, answer(409, b"{}"), lines({"end": True}) + END], clicks=2)
    assert not visitor.lost and asked[2]["record"] == "work.signed" and visitor.clicks[1].refused == 0


def test_a_click_without_its_last_line_is_lost():
    visitor, _, _ = clicked([lines({"bar": 1}) + END, lines() + END, lines({"bar": 1})], seconds=1.2)
    assert visitor.lost and visitor.clicks[0].resent >= 2
    visitor, _, _ = clicked([answer(400, b"no such step")])
    assert visitor.lost and "no such step" in visitor.clicks[0].trouble


def test_pictures_that_do_not_load_are_asked_for_in_the_answer_itself():
    def film(image):
        return lines({"film": {"tiles": [{"seed": 1, "image": image}]}, "end": True}) + END

    visitor, shown, asked = clicked([film("rewriter/pictures/gone"), film("data:image/jpeg;base64,eHl6")])
    assert asked[1]["name"] == "refresh" and asked[1]["inline"] is True and not visitor.lost
    assert visitor.shown(shown["film"]) == (hashlib.sha256(b"xyz").hexdigest(),)


def test_each_visit_has_marks_of_its_own_which_can_be_drawn_again():
    made = [json.dumps([*Marks.drawn(7, "stage", i, turn).clicks("weight")]) for i in range(20) for turn in range(3)]
    assert len({*made}) == 60 and made[4] == json.dumps([*Marks.drawn(7, "stage", 1, 1).clicks("weight")])
    assert json.dumps([*Marks.drawn(8, "stage", 1, 1).clicks("weight")]) != made[4]
    assert all(len(arguments[1]) < MAX_TEXT for _, step, arguments in Marks.drawn(0).clicks("auto") if step == "mark")


def jpegs(pictures):
    files = []
    for picture in pictures:
        enlarged(to_image(picture), 32).save(buffer := io.BytesIO(), "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


@pytest.fixture
def crowded():
    """Two visitors who got what they should, and the plain loop that made the same."""
    draw = torch.Generator().manual_seed(0)
    original, *own = (torch.rand(PAGE, 3, 16, 16, generator=draw) * 2 - 1 for _ in range(3))
    plain = Plain(1.0, 1.0, {("3 at once", i, 0): pictures for i, pictures in enumerate(own)}, original)
    visitors = []
    for i, pictures in enumerate(own):
        visitor = Visitor(Site("http://nowhere"), ("3 at once", i), 0, 0)
        shown = {}
        for kinds, each in ((("execute", "on"), pictures), (("off", "undo"), original)):
            visitor.files |= (files := {hashlib.sha256(data).hexdigest(): data for data in jpegs(each)})
            shown |= dict.fromkeys(kinds, tuple(files))
        visitor.visits.append((1.0, shown))
        visitors.append(visitor)
    return visitors, plain


def test_visitors_with_their_own_pictures_are_not_mixed_up(crowded):
    visitors, plain = crowded
    assert mixed_up(visitors, plain) == []
    assert apart(jpegs(plain.original), plain.original) == 0


def test_any_way_to_mix_visitors_up_is_seen(crowded):
    (one, two), plain = crowded
    mine, theirs = one.visits[0][1], two.visits[0][1]
    one.files |= two.files
    for wrong in (
        dict.fromkeys(("execute", "on"), theirs["execute"]),  # another's rule
        {"on": theirs["execute"]},  # another's rule after a toggle
        {"off": mine["execute"]},  # a rule that cannot be switched off
        {"undo": theirs["execute"]},
        dict.fromkeys(("execute", "on"), mine["execute"][:-1]),  # a picture is missing
        dict.fromkeys(("execute", "on"), mine["execute"][::-1]),
    ):
        one.visits[0] = 1.0, mine | wrong
        assert mixed_up([one, two], plain), wrong


def test_a_rule_that_changes_nothing_visible_proves_nothing(crowded):
    visitors, plain = crowded
    assert told_apart(plain, "3 at once") == 2 and told_apart(plain, "killed") == 0
    weak = {**plain.pictures, ("killed", 0, 0): plain.original + 1e-4}
    assert told_apart(Plain(1.0, 1.0, weak, plain.original), "killed") == 0
    for visitor in visitors:  # nothing is said of two visitors whose rules leave all pictures as they are
        visitor.key = ("not compared", 0)
        visitor.visits[0] = 1.0, dict.fromkeys(("execute", "on", "off", "undo"), visitor.visits[0][1]["off"])
    assert mixed_up(visitors, plain) == []


def test_figures_count_what_was_lost_and_how_fast_the_rest_was():
    assert [serve.percentile([3, 1, 2, 4], share) for share in (0, 0.5, 0.75, 0.95)] == [1, 2, 3, 4]
    assert serve.percentile([], 0.5) is None
    clicks = [Click("execute", start, seconds, True) for start, seconds in ((0, 2), (1, 3), (2, 3))]
    assert serve.rate(clicks) == 3 / 5 and serve.rate([Click("execute", 0, 1)]) == 0
    visitor = Visitor(Site("http://nowhere"), KEY, 0, 0, clicks=[*clicks, Click("copy", 0, 9, False, refused=2)])
    row = serve.figures([visitor])
    assert (row["lost"], row["refused"], row["copy_p95"], row["executes_per_second"]) == (1, 2, 9, 3 / 5)


@pytest.mark.hostile  # a minute or three
def test_a_small_crowd_on_a_real_server_loses_nothing_while_a_worker_is_killed():
    plan = serve.Plan((3,), seconds=10, pause=0.3, settle=0)
    report = serve.serve(plan)
    assert serve.failures(report) == [] and report["killed"]["killed"]
    row = report["crowds"][0]
    assert 1 <= row["checked"] <= 3 and row["visits"] >= 3 and row["troubles"] == []
    assert report["looking"]["times"] > 3 and report["neighbour"]["asked"] >= 1
    assert "| 3 |" in serve.markdown(report)
