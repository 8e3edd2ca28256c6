"""The study of realism: blind, balanced, never losing an answer, and honest about what its answers say."""

import base64
import io
import json
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from rewriter.errors import InputError
from rewriter.evaluation.intervals import crossed_bootstrap, wilson
from rewriter.evaluation.realism import Study
from rewriter.evaluation.realism_answers import CANNOT_TELL, Answer
from rewriter.evaluation.realism_summary import summary

METHODS = ("walrus", "ostrich", "gazelle")  # words that are nowhere else on a page


def draw(method, seed, side=16):
    rng = np.random.default_rng([METHODS.index(method), seed])
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def create(folder, *, reference=METHODS[0], others=METHODS[1:], seeds=range(6), pictures=draw, **options):
    return Study.create(folder, reference=reference, others=others, seeds=seeds, pictures=pictures, **options)


@pytest.fixture
def study(tmp_path):
    return create(tmp_path / "study")


def judge(study, rater, choose, most=1000):
    """A rater answers; `choose` gets what is shown."""
    for _ in range(most):
        if (showing := study.next(rater)) is None:
            return
        chosen = choose(showing)
        assert study.record(Answer(rater, showing.pair, showing.left, showing.right, chosen, 1.5))


def left(showing):
    return showing.left


# --- what is shown ---


def test_a_rater_sees_every_pair_once_with_the_reference_left_in_half_of_each_methods(study):
    for rater in ("a", "b", "c"):
        judge(study, rater, left)
    given = study.answers().given
    for rater in ("a", "b", "c"):
        own = [one for one in given if one.rater == rater]
        assert sorted(one.pair for one in own) == list(range(12))
        assert Counter(study.pair(one.pair)[0] for one in own if one.left == "walrus") == {"ostrich": 3, "gazelle": 3}
        assert study.next(rater) is None
    assert len({tuple(one.pair for one in given if one.rater == rater) for rater in "abc"}) == 3


def test_an_odd_number_of_pairs_favours_no_side(tmp_path):
    study = replace(create(tmp_path, others=["ostrich"], seeds=[7]), order=5)
    sides = Counter(study.next(f"{rater}").left for rater in range(400))
    assert abs(sides["walrus"] - 200) < 50


def test_the_pair_judged_least_comes_next(study):
    judge(study, "a", left, most=5)
    done = {one.pair for one in study.answers().given}
    judge(study, "b", left, most=7)
    assert {one.pair for one in study.answers().given[5:]} == set(range(12)) - done
    assert study.next("b").n == 8


def test_what_is_next_does_not_change_by_asking(study):
    assert study.next("a") == study.next("a") == Study.load(study.folder).next("a")


# --- the folder ---


def test_a_study_goes_on_where_it_was(study):
    judge(study, "a", left, most=3)
    judge(again := create(study.folder, pictures=None), "a", left)
    assert again == study == Study.load(study.folder)
    assert sorted(one.pair for one in again.answers().given) == list(range(12))


def test_only_missing_pictures_are_drawn(tmp_path):
    def interrupted(method, seed):
        if seed == 3:
            raise KeyboardInterrupt
        return draw(method, seed)

    with pytest.raises(KeyboardInterrupt):
        create(tmp_path, pictures=interrupted)
    with pytest.raises(InputError, match=r"3\.png is missing"):
        Study.load(tmp_path)
    drawn, steps = [], []
    study = create(tmp_path, pictures=lambda *of: drawn.append(of) or draw(*of), on_step=lambda *at: steps.append(at))
    assert drawn == [(method, seed) for seed in (3, 4, 5) for method in METHODS] and steps[-1] == (18, 18)
    assert study.picture("gazelle", 7).tobytes() == draw("gazelle", 1).tobytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": range(7)}, "other seeds"),
        ({"others": ["ostrich"]}, "other others"),
        ({"about": {"rule": "another"}}, "other about"),
    ],
)
def test_another_study_in_the_folder_is_refused(study, change, words):
    with pytest.raises(InputError, match=f"{words}: choose another folder"):
        create(study.folder, **change)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"others": []}, "at least one other"),
        ({"others": ["Walrus"]}, "each once"),
        ({"others": ["../ostrich"]}, "a name is"),
        ({"others": [CANNOT_TELL]}, "a name is"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [1, 1]}, "each once"),
        ({"seeds": [-1]}, "seed -1"),
        ({"seeds": [True]}, "seed True"),
        ({"pictures": lambda method, seed: draw(method, seed, 16 if method == "walrus" else 17)}, "differ in size"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, wrong, words):
    with pytest.raises(InputError, match=words):
        create(tmp_path, **wrong)


def test_folders_that_hold_no_study_are_refused(tmp_path, study):
    with pytest.raises(InputError, match="holds no study"):
        Study.load(tmp_path)
    with pytest.raises(InputError, match="holds study but no study"):
        create(tmp_path)
    about = json.loads((study.folder / "study.json").read_text())
    for damage in ("{", "[]", "{}", *(json.dumps({**about, key: None}) for key in ("format", "seeds", "reference"))):
        (study.folder / "study.json").write_text(damage)
        with pytest.raises(InputError):
            Study.load(study.folder)


def test_a_damaged_picture_is_named(study):
    (study.folder / "pairs" / "walrus" / "2.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"2\.png is missing or damaged"):
        study.picture("walrus", 2)
    with pytest.raises(InputError, match=r"2\.png is missing or damaged"):
        Study.load(study.folder)


# --- the answers ---


def test_a_pair_is_judged_once_by_each(study):
    answer = Answer("a", 0, "walrus", "ostrich", "ostrich", 2)
    assert study.record(answer) and not study.record(replace(answer, chosen="walrus"))
    assert study.record(replace(answer, rater="b", chosen=CANNOT_TELL))
    assert study.answers().given == (answer, replace(answer, rater="b", chosen=CANNOT_TELL))


@pytest.mark.parametrize(
    "wrong", [{"pair": 12}, {"pair": -1}, {"left": "gazelle"}, {"right": "walrus"}, {"chosen": ""}]
)
def test_what_is_no_answer_is_neither_written_nor_read(study, wrong):
    answer = replace(Answer("a", 0, "walrus", "ostrich", "ostrich", 2), **wrong)
    with pytest.raises(InputError, match="no answer of this study"):
        study.record(answer)
    (study.folder / "answers.jsonl").write_text(json.dumps(vars(answer)) + "\n")
    with pytest.raises(InputError, match=r"line 1 of .* remove that line"):
        study.answers()


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_damaged_last_line_is_left_out_and_said(study, kept):
    judge(study, "a", left, most=2)
    file = study.folder / "answers.jsonl"
    first, last = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + last[:kept])
    whole = 2 if kept == -1 else 1  # only the line's end is missing
    assert len(study.answers().given) == whole
    judge(study, "a", left)
    answers = study.answers()
    assert sorted(one.pair for one in answers.given) == list(range(12))
    assert answers.damaged == (() if whole == 2 else (2,))
    assert ("Left out: line 2" in summary(study).markdown()) == (whole == 1)


def test_a_killed_writer_loses_nothing_that_was_said(study):
    code = """if True:
        import sys
        from rewriter.evaluation.realism import Study
        from rewriter.evaluation.realism_answers import Answer
        study = Study.load(sys.argv[1])
        for rater in range(10_000):
            showing = study.next(f"{rater}")
            study.record(Answer(f"{rater}", showing.pair, showing.left, showing.right, showing.left, 1))
            print(rater, flush=True)"""
    with subprocess.Popen([sys.executable, "-c", code, study.folder], stdout=subprocess.PIPE, text=True) as writer:
        for said in writer.stdout:
            if int(said) == 20:
                writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
    answers = study.answers()
    assert {one.rater for one in answers.given} >= {f"{rater}" for rater in range(21)} and len(answers.damaged) <= 1
    judge(study, "afterwards", left)
    assert len(study.answers().given) == len(answers.given) + 12


# --- what they say ---


def test_wilson_is_what_is_computed_by_hand():
    # 8 of 10: centre (0.8 + 3.841459 / 20) / 1.3841459 = 0.716740, reach 1.959964 √(0.016 + 0.00960365) / 1.3841459
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert wilson(0, 10) == pytest.approx((0, 0.277533), abs=1e-6)  # z² / (n + z²)
    assert wilson(10, 10) == pytest.approx((0.722467, 1), abs=1e-6)
    assert wilson(50, 100) == pytest.approx((0.403832, 0.596168), abs=1e-6)


def test_the_bootstrap_is_wilsons_interval_for_independent_answers_and_wider_for_alike_ones():
    rng = np.random.default_rng(1)
    raters, pairs = [f"{i // 40}" for i in range(1600)], [i % 40 for i in range(1600)]
    mixed = crossed_bootstrap(raters, pairs, rng.random(1600) < 0.3)
    low, high = wilson(480, 1600)
    assert mixed[0] < 0.3 < mixed[1] and high - low < mixed[1] - mixed[0] < 2 * (high - low)  # Owen: at most √3, about
    alike = crossed_bootstrap(raters, pairs, [int(rater) % 3 == 0 for rater in raters])
    assert alike[1] - alike[0] > 4 * (high - low)
    assert alike == crossed_bootstrap(raters, pairs, [int(rater) % 3 == 0 for rater in raters])
    assert crossed_bootstrap(["a", "b"], [1, 1], [True, True]) == (1, 1)


def test_no_answers_are_no_result(study):
    with pytest.raises(InputError, match="no answers yet: open the study's page"):
        summary(study)


def test_a_habit_of_one_side_makes_no_method_look_better(study):
    for rater in ("a", "b"):
        judge(study, rater, left)
    found = summary(study)
    assert [one.share for one in found.comparisons] == [0.5, 0.5] and found.left == 1


def test_the_summary_counts_choices_and_keeps_cannot_tell_apart(study):
    judge(study, "a", lambda showing: "ostrich" if "ostrich" in (showing.left, showing.right) else CANNOT_TELL)
    judge(study, "b", lambda showing: "walrus")
    judge(study, "b", left)
    found = summary(study)
    ostrich, gazelle = found.comparisons
    assert (ostrich.more_real, ostrich.n, ostrich.cannot_tell, ostrich.share) == (6, 12, 0, 0.5)
    assert (gazelle.more_real, gazelle.n, gazelle.cannot_tell, gazelle.share) == (0, 6, 6, 0)
    assert (ostrich.raters, ostrich.pairs, found.raters, found.answers, found.pairs) == (2, 6, 2, 24, 12)
    assert ostrich.wilson == wilson(6, 12) and ostrich.bootstrap == (0, 1)  # each is certain, and they differ
    assert gazelle.bootstrap is None  # only one of them chose
    assert json.loads(json.dumps(found.to_json()))["comparisons"][0]["more_real"] == 6
    assert "| ostrich | 50.0 % | 25.4 – 74.6 % | 0.0 – 100.0 % | 12 | 0 |" in found.markdown()
    assert "24 answers by 2 people" in found.markdown()


def test_a_single_rater_who_cannot_tell_is_said_so(study):
    judge(study, "a", lambda showing: CANNOT_TELL)
    found = summary(study)
    assert found.comparisons[0].share is None and found.left is None
    assert "| ostrich | – | – | – | 0 | 6 |" in found.markdown() and "One person's eye" in found.markdown()


# --- the page ---


def pixels(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def test_a_visitor_is_shown_what_is_next_and_answers_it(study):
    from rewriter.evaluation.realism_page import answered, opened

    visitor, rater, drawn = opened(study, None)
    shown = json.loads(drawn)
    assert set(shown) == {"left", "right", "n", "of"} and (shown["n"], shown["of"]) == (1, 12)
    small = pixels(shown["left"]).resize((16, 16), Image.Resampling.NEAREST)
    assert pixels(shown["left"]).size == (384, 384)
    assert small.tobytes() == study.picture(visitor.showing.left, visitor.showing.pair).tobytes()
    after, drawn = answered(study, visitor, "right", 1)
    (answer,) = study.answers().given
    assert (answer.rater, answer.pair, answer.chosen) == (rater, visitor.showing.pair, visitor.showing.right)
    assert 0 <= answer.seconds < 60 and json.loads(drawn)["n"] == 2
    for choice, n in (("left", 1), ("ours", 2), (None, None)):
        assert answered(study, after, choice, n)[0].showing == after.showing
    assert len(study.answers().given) == 1
    assert opened(study, rater)[0].showing == after.showing
    assert opened(study, "../nobody")[1] not in (rater, "../nobody")


def test_metadata_of_a_picture_stay_where_they_are():
    from rewriter.evaluation.realism_page import data_url

    image = draw("walrus", 0, side=300)
    image.info.update(icc_profile=b"walrus", dpi=(3, 3), comment="walrus")
    assert pixels(data_url(image)).size == (300, 300) and pixels(data_url(image)).info == {}


class Tap:
    """Hears every byte that the server sends, before it is compressed."""

    def __init__(self, app, heard):
        self.app, self.heard = app, heard

    async def __call__(self, scope, receive, send):
        async def heard(message):
            self.heard += message.get("body", b"") + repr(message.get("headers", "")).encode()
            await send(message)

        await self.app(scope, receive, heard)


@contextmanager
def served(study, heard):
    from starlette.middleware import Middleware

    from rewriter.evaluation.realism_page import LAUNCH, page

    demo = page(study)
    tapped = {"app_kwargs": {"middleware": [Middleware(Tap, heard=heard)]}, **LAUNCH}
    yield demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **tapped)[1]
    demo.close()


def said(heard):
    """Methods whose names were sent."""
    return [method for method in METHODS if method.encode() in bytes(heard).lower()]


class Rater:
    """A tab with the page."""

    def __init__(self, browser, url, **viewport):
        self.context = browser.new_context(viewport={"width": 1100, "height": 800, **viewport})
        self.page, self.errors = self.context.new_page(), []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url, wait_until="domcontentloaded")

    def see(self, n, of=12):
        self.page.wait_for_selector(f'.progress:text-is("{n} of {of}")')
        self.page.wait_for_selector('.judging[aria-busy="false"]')

    def close(self):
        self.context.close()
        assert self.errors == []


@pytest.mark.filterwarnings("ignore")
def test_raters_judge_in_a_browser_and_learn_nothing_of_the_methods(browser, study):
    heard = bytearray()
    with served(study, heard) as url:
        one, other = Rater(browser, url), Rater(browser, url, width=400)
        one.see(1)
        other.see(1)
        assert not other.page.evaluate("document.scrollingElement.scrollWidth > window.innerWidth")
        one.page.click('[data-choice="left"]')
        one.see(2)
        one.page.dblclick('[data-choice="right"]')
        one.see(3)
        one.page.keyboard.press("ArrowDown")
        one.see(4)
        one.page.keyboard.press("ArrowLeft")
        one.see(5)
        one.page.reload(wait_until="domcontentloaded")
        one.see(5)  # who reloads the page goes on
        for n in range(1, 13):
            other.see(n)
            other.page.keyboard.press("ArrowRight")
        other.page.wait_for_selector("text=Thank you!")
        given = study.answers().given
        first, rest = given[:4], given[4:]
        assert [one.chosen for one in first] == [first[0].left, first[1].right, CANNOT_TELL, first[3].left]
        assert len(rest) == 12 and all(one.chosen == one.right for one in rest)
        assert [len({one.rater for one in part}) for part in (first, rest, given)] == [1, 1, 2]
        for rater in (one, other):
            assert [method for method in METHODS if method in rater.page.content().lower()] == []
            rater.close()
        file, info, _ = (
            httpx.get(f"{url}{path}")
            for path in (f"gradio_api/file={study.folder / 'study.json'}", "gradio_api/info", "config")
        )
        assert file.status_code == 403 and info.json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert heard.count(b"data:image/png") >= 2 * 18 and said(heard) == []


@pytest.mark.filterwarnings("ignore")
def test_an_answer_that_cannot_be_saved_is_told_without_a_methods_name(browser, study):
    heard = bytearray()
    with served(study, heard) as url:
        rater = Rater(browser, url)
        rater.see(1)
        (study.folder / "answers.jsonl").write_text('{"chosen": "walrus"}\n')
        rater.page.click('[data-choice="left"]')
        rater.page.wait_for_selector("text=your answer is not saved")
        rater.see(1)
        (study.folder / "answers.jsonl").unlink()
        rater.page.click('[data-choice="left"]')
        rater.see(2)
        assert len(study.answers().given) == 1
        rater.close()
    assert said(heard) == []
