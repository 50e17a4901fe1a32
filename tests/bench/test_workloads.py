"""The suites as data: who is asked what, in which dialect."""

from __future__ import annotations

from bench.workloads import GET4K, SUITES, in_s3, with_s3


def test_where_all_speak_swift_nothing_is_added() -> None:
    """A suite stays what it is."""
    assert with_s3(SUITES["standard"], []) == list(SUITES["standard"])


def test_a_peer_that_speaks_s3_alone_has_everything_asked_in_s3_too() -> None:
    """Each workload in Swift's dialect has its like in S3, once, and nothing else of it differs."""
    asked = with_s3(SUITES["standard"], ["minio"])
    titles = [workload.title for workload in asked]
    assert len(set(titles)) == len(titles)
    for workload in SUITES["standard"]:
        assert workload in asked
        if workload.dialect == "swift":
            assert in_s3(workload) in asked


def test_the_like_in_s3_is_asked_at_once() -> None:
    """So that a slow quarter of an hour does not hit one of the two alone."""
    asked = with_s3([GET4K], ["minio"])
    assert asked == [GET4K, in_s3(GET4K)]
