"""Files by URL, from a local server: whole, in parts, with broken connections, unavailable, missing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Web, serving

from reslab.data.webdataset import http as urls
from reslab.data.webdataset.http import (
    UrlFile,
    UrlNotFoundError,
    check_url,
    download_file,
    read_optional_text,
    read_range,
)

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server of one file of 10,240 bytes; nobody waits between two tries."""
    monkeypatch.setattr(urls, "_RETRY_SECONDS", 0.0)
    urls._block.cache_clear()
    (tmp_path / "file").write_bytes(CONTENT)
    with serving(tmp_path) as web:
        yield web


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_part_is_that_of_the_file(web: Web, knows_ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    web.knows_ranges = knows_ranges
    monkeypatch.setattr(urls, "_BLOCK_BYTES", 1000)
    for start, num_bytes in ((0, 5), (995, 10), (999, 3000), (10_230, 10)):
        assert read_range(f"{web.url}/file", start, num_bytes) == CONTENT[start : start + num_bytes]


def test_neighbors_are_read_together(web: Web) -> None:
    for start in range(0, 1000, 100):
        read_range(f"{web.url}/file", start, 100)
    assert len(web.requests) == 1


def test_a_broken_connection_resumes_where_it_broke(web: Web, tmp_path: Path) -> None:
    for knows_ranges in (True, False):
        web.knows_ranges, web.breaks = knows_ranges, [100, 5000, 1]
        download_file(f"{web.url}/file", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == CONTENT
        assert web.breaks == []
    assert ("/file", "bytes=100-10239") in web.requests


def test_a_connection_that_keeps_breaking_is_an_error(web: Web) -> None:
    with UrlFile(f"{web.url}/file") as file:
        assert file.read(10) == CONTENT[:10]
    web.breaks = [0] * 20
    with UrlFile(f"{web.url}/file") as file, pytest.raises(ValueError, match=r"at byte 0 of 10,240, 4 times"):
        file.read()


def test_a_server_that_is_unreachable_for_a_moment(web: Web) -> None:
    web.num_away = 2
    with UrlFile(f"{web.url}/file") as file:
        assert file.read() == CONTENT
    web.num_away = 10
    with pytest.raises(ValueError, match=r"downloaded; got: http.*/file \(503"):
        UrlFile(f"{web.url}/file")


def test_missing_files(web: Web, tmp_path: Path) -> None:
    with pytest.raises(UrlNotFoundError, match=r"gone \(404"):
        UrlFile(f"{web.url}/gone")
    assert web.requests == [("/gone", "")]  # nobody asks twice for that
    assert read_optional_text(f"{web.url}/gone") is None
    (tmp_path / "words").write_text("ant\n")
    assert read_optional_text(f"{web.url}/words") == "ant\n"
    with pytest.raises(ValueError, match="shorter than when it was indexed"):
        UrlFile(f"{web.url}/file", 20_000)


@pytest.mark.parametrize("url", ["pipe:cat x.tar", "file:///etc/passwd", "s3://bucket/x.tar", "https:///x.tar"])
def test_other_schemes_are_an_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"https or http.*nearest valid: https://HOST/"):
        check_url(url)


def test_redirects_stay_at_the_server(web: Web) -> None:
    web.redirects["/old"] = f"{web.url}/file"
    with UrlFile(f"{web.url}/old") as file:
        assert file.read() == CONTENT
    port = int(web.url.rpartition(":")[2])
    for target in (f"http://localhost:{port}/file", f"http://127.0.0.1:{port + 1}/file", "ftp://127.0.0.1/file"):
        web.redirects["/old"] = target
        with pytest.raises(ValueError, match=r"a file at http://127\.0\.0\.1:.*; got: a redirect to ") as caught:
            UrlFile(f"{web.url}/old")
        assert target in str(caught.value)
    web.redirects["/old"] = "file:///etc/hosts"
    with pytest.raises(ValueError, match="is not allowed"):
        UrlFile(f"{web.url}/old")


def test_a_body_without_end_is_an_error(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "MAX_FILE_BYTES", 3 << 20)
    web.is_endless = True
    with pytest.raises(ValueError, match="a file of at most 3,145,728 bytes"):
        download_file(f"{web.url}/file", tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size <= 3 << 20
    web.is_endless = False
    monkeypatch.setattr(urls, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ValueError, match=r"a file of at most 1,000 bytes .*; got: 10,240"):
        UrlFile(f"{web.url}/file")


def test_a_slow_server_is_an_error(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.seconds_per_byte = 0.01
    monkeypatch.setattr(urls, "SLOW_SECONDS", 0.3)
    with pytest.raises(ValueError, match=r"at least 4,096 bytes a second from .*; got: \d+ over"):
        download_file(f"{web.url}/file", tmp_path / "copy")
    monkeypatch.setattr(urls, "SLOW_SECONDS", 100.0)
    monkeypatch.setattr(urls, "MAX_READ_SECONDS", 0.2)
    with pytest.raises(ValueError, match="seconds of reading"):
        download_file(f"{web.url}/file", tmp_path / "copy")


def test_texts_that_are_too_long_or_not_utf_8(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "_MAX_TEXT_BYTES", 5)
    with pytest.raises(ValueError, match="at most 5 bytes of text"):
        read_optional_text(f"{web.url}/file")
    (tmp_path / "words").write_bytes(b"\xe9")
    with pytest.raises(ValueError, match="in UTF-8"):
        read_optional_text(f"{web.url}/words")
