"""Studies on a PostgreSQL server: the tests of test_store_studies with another store."""

from __future__ import annotations

import pytest
from postgres import Postgres, postgres
from test_store_studies import (
    store,
    test_a_candidate_is_begun_once,
    test_a_killed_process_leaves_its_trial_to_the_next,
    test_a_trial_comes_back_as_it_was,
    test_studies_are_listed_and_found,
    test_threads_never_share_a_number,
    test_what_still_runs_is_not_adopted_and_what_was_released_is_once,
)

pytestmark = pytest.mark.slow

__all__ = [
    "postgres",
    "store",
    "test_a_candidate_is_begun_once",
    "test_a_killed_process_leaves_its_trial_to_the_next",
    "test_a_trial_comes_back_as_it_was",
    "test_studies_are_listed_and_found",
    "test_threads_never_share_a_number",
    "test_what_still_runs_is_not_adopted_and_what_was_released_is_once",
]


@pytest.fixture
def where(postgres: Postgres) -> str:
    return postgres.url()
