"""What a user sees who misspells a verb or an option, and where -v may stand."""

from __future__ import annotations

import pytest

from pipeline.cli.main import parser


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_misspelled_verb_gets_the_one_it_may_have_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "plna", "run").endswith("; did you mean plan?")
    assert refused(capsys, "rnu", "run").endswith("; did you mean run?")


def test_a_misspelled_option_gets_the_one_it_may_have_meant(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "plan", "run", "--modle", "sdss_II")
    assert message == ("spender-pipeline plan: error: unrecognized arguments: --modle sdss_II; did you mean --model?")
    assert refused(capsys, "run", "root", "--worker-s=2", "--mdoel=x").endswith("did you mean --workers and --model?")


def test_an_option_of_another_verb_gets_no_suggestion_that_this_verb_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" not in refused(capsys, "verify", "root", "--where", "Z > 0")


def test_a_word_like_no_other_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" not in refused(capsys, "xyzzy")
    assert "did you mean" not in refused(capsys, "status", "root", "--xyzzy")


@pytest.mark.parametrize("words", [["-v", "status", "root"], ["status", "-v", "root"], ["status", "root", "-v"]])
def test_verbose_may_stand_before_or_after_the_verb(words: list[str]) -> None:
    assert parser().parse_args(words).verbose


def test_a_command_is_not_verbose_unless_asked() -> None:
    assert not parser().parse_args(["status", "root"]).verbose
