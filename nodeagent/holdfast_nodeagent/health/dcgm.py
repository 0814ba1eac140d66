"""`dcgmi diag --json`, read: what DCGM says of each GPU. Pure.

DCGM 3: `{"DCGM GPU Diagnostic": {"test_categories": [{"tests": [{"name", "results": [{"gpu_ids" or "gpu_id", "status", "warnings"}]}]}]}}`,
where a warning is a text or an object. DCGM 4 (as 4.2.3 writes it): `{"DCGM Diagnostic": {…}}`, with `entity_group` and `entity_id` for
the GPU, `test_summary`, warnings with `warning` and `error_severity`, and `runtime_error` where nothing was tested.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MILD = frozenset({1, 5})
"""dcgmErrorSeverity_t (dcgm_errors.h): 1 MONITOR can work, 5 CONFIG is a setting, such as persistence mode, which DCGM calls a failure of
every GPU. 2 ISOLATE, 3 UNKNOWN, 4 TRIAGE and 6 RESET are not."""
MAX_TEXT = 300

Text = Annotated[str, Field(max_length=65_536)]


class _Said(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Warning(_Said):
    warning: Text = ""
    error_severity: int | None = None


class _Result(_Said):
    gpu_ids: Text | int = ""
    gpu_id: Text | int = ""
    entity_group: Text = ""
    entity_id: int | None = None
    status: Text
    warnings: Annotated[list[_Warning | Text], Field(max_length=4096)] | Text = []

    @property
    def subject(self) -> str:
        if self.entity_group:
            return self.entity_group if self.entity_id is None else f"{self.entity_group} {self.entity_id}"
        gpus = self.gpu_ids if self.gpu_ids != "" else self.gpu_id
        return f"GPU {gpus}" if gpus != "" else "the node"

    @property
    def said(self) -> list[_Warning]:
        listed = self.warnings if isinstance(self.warnings, list) else [self.warnings]
        return [each if isinstance(each, _Warning) else _Warning(warning=each) for each in listed if each]


class _Test(_Said):
    name: Text
    results: Annotated[list[_Result], Field(max_length=4096)] = []
    test_summary: _Result | None = None


class _Category(_Said):
    tests: Annotated[list[_Test], Field(max_length=1024)] = []


class _Diagnostic(_Said):
    test_categories: Annotated[list[_Category], Field(max_length=1024)] = []
    runtime_error: Text = ""


class _Document(_Said):
    four: _Diagnostic | None = Field(default=None, alias="DCGM Diagnostic")
    three: _Diagnostic | None = Field(default=None, alias="DCGM GPU Diagnostic")


@dataclass(frozen=True, slots=True)
class Failure:
    """One test that failed."""

    test: str
    subject: str
    """`GPU 3`, as DCGM counts, or `the node`."""
    text: str
    mild: bool
    """All that DCGM says against it is a setting, or something to watch."""

    def __str__(self) -> str:
        return f"{self.test} on {self.subject}" + (f": {self.text}" if self.text else "")


class NotTestedError(Exception):
    """DCGM's output tells of no test that was run, and why."""


def failures(output: bytes) -> tuple[Failure, ...]:
    """Return the tests that failed, none where all passed or were skipped. Raises NotTestedError."""
    try:
        document = _Document.model_validate_json(output)
    except ValidationError as error:
        first: dict[str, Any] = dict(error.errors(include_url=False, include_input=False, include_context=False)[0])
        raise NotTestedError(f"the output is not understood: {first['msg']}") from None
    diagnostic = document.four or document.three
    if diagnostic is None:
        raise NotTestedError("the output is no diagnostic's")
    if diagnostic.runtime_error:
        raise NotTestedError(diagnostic.runtime_error[:MAX_TEXT])
    tests = [test for category in diagnostic.test_categories for test in category.tests]
    if not any(_status(result) in ("pass", "fail", "warn") for test in tests for result in _results(test)):
        raise NotTestedError("no test was run")
    return tuple(_failure(test, result) for test in tests for result in _failed(test))


def _results(test: _Test) -> list[_Result]:
    return [*test.results, *([test.test_summary] if test.test_summary is not None else [])]


def _failed(test: _Test) -> list[_Result]:
    """A test's failing results, or its summary where that alone says so."""
    return [result for result in test.results if _status(result) == "fail"] or [
        summary for summary in [test.test_summary] if summary is not None and _status(summary) == "fail"
    ]


def _status(result: _Result) -> str:
    return result.status.strip().lower()


def _failure(test: _Test, result: _Result) -> Failure:
    said = result.said
    text = "; ".join(" ".join(each.warning.split()) for each in said if each.warning)
    mild = bool(said) and all(each.error_severity in MILD for each in said)
    return Failure(test.name[:64], result.subject[:64], text[:MAX_TEXT], mild)
