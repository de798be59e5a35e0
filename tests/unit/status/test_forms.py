"""What is said of a relay's filters."""

from pipeline.crawl.sync.forms.forms import FORMS, FormVerdict
from pipeline.status.forms import form_lines
from pipeline.store.relay_forms import FormCheck


def test_forms_are_listed_by_result_the_worst_first_without_searches() -> None:
    checks = [
        FormCheck("authors/low", "whole", 1, 1),
        FormCheck("mentions/high", "holes", 1, 4),
        FormCheck("mentions/low", "whole", 1, 1),
        FormCheck("search/low", "unknown", 1, 1),
    ]
    assert form_lines(checks) == "\n  mentions/high: leaves events out\n  authors/low, mentions/low: answers whole"
    assert form_lines([]) == ""


def test_every_result_has_words() -> None:
    for verdict in FormVerdict:
        line = form_lines([FormCheck(FORMS[0].name, verdict, 1, 1)])
        assert not line.endswith(f": {verdict}")
