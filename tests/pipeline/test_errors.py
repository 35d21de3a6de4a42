from __future__ import annotations

import pytest

from pipeline.errors import ConfigError, redacted


def test_error_says_key_value_expectation_and_remedy() -> None:
    error = ConfigError("shard", 5000, "1 to 4096 spectra", "choose less")
    assert str(error) == "shard is 5000, expected 1 to 4096 spectra; choose less"
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET https://u:hush@h/x?sig=hush 'y'", "GET https://***@h/x?*** 'y'"),
        ("s3://AKIA:hu/sh+hush@bucket/x", "s3://***@bucket/x"),
        ("https://me@example.org:hush@h/x", "https://***@h/x"),
        ("s3://AKIA:12/hush@bucket/run", "s3://***@bucket/run"),
        ("https://h/dr17#access_token=hush", "https://h/dr17#***"),
        ("404 for /bucket/x?X-Amz-Signature=hush&y=1", "404 for /bucket/x?***"),
        ("two runs on one ROOT at once? remove it", "two runs on one ROOT at once? remove it"),
        ("https://h:8080/a@b", "https://h:8080/a@b"),
        ("tls://hush@h:1, then s3://b/x?hush", "tls://***@h:1, then s3://b/x?***"),
    ],
)
def test_text_is_redacted_wherever_a_url_stands_in_it(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert str(ConfigError("key", text, "no secret")) == f"key is {expected!r}, expected no secret"
