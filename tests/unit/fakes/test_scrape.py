"""The text format is read to the letter."""

import pytest

from tests.fakes.scrape import Sample, Scrape

TEXT = """# HELP requests Requests.
# TYPE requests counter
requests{path="/a",code="200"} 3.0
requests{path="/b \\"q\\" \\\\ \\n",code="200"} 4
requests_sum 1.5e3
"""


def test_samples_names_and_types() -> None:
    scrape = Scrape(TEXT)
    assert scrape.value("requests") == 7
    assert scrape.value("requests", path="/a") == 3
    assert scrape.value("request") == 0
    assert scrape.samples("requests", path='/b "q" \\ \n') == [
        Sample("requests", {"path": '/b "q" \\ \n', "code": "200"}, 4.0)
    ]
    assert scrape.names() == {"requests", "requests_sum"}
    assert scrape.types() == {"requests": "counter"}


def test_junk_is_no_scrape() -> None:
    with pytest.raises(ValueError, match="no sample"):
        Scrape("requests{ 3").samples()
