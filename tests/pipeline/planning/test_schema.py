from __future__ import annotations

from pipeline.planning import schema


def test_users_choose_among_the_variables_of_the_schema() -> None:
    assert tuple(schema.variables_of(schema.OUTPUTS)) == (*schema.OUTPUTS, "quality")
    assert set(schema.default_outputs()) <= set(schema.OUTPUTS)
