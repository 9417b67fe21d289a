"""Settings that cannot work are refused before work, in a sentence that names the field."""

import shutil

import pytest
from hostile_settings import COMMANDS, Inputs, problem_of, refuse_workers

_NUM_QUICK, _NUM_SLOW, _NUM_TRAINED = 45, 5_000, 30


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return Inputs(tmp_path_factory.mktemp("inputs") / "all")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A drawn text may be taken for a path."""
    monkeypatch.chdir(tmp_path)


def problems(inputs, folder, numbers, *, steps=False):
    """Of each command that neither works nor is refused as it should be, one line."""
    found, num_working = [], 0
    for number in numbers:
        command, changed, _ = inputs.drawn(number)
        try:
            said = inputs.outcome(number, folder / str(number), steps=steps)
        except Exception as error:
            found.append(
                f"{number} {command} {changed}: {type(error).__name__} {error}"
            )
            continue
        finally:
            shutil.rmtree(folder / str(number), ignore_errors=True)
        num_working += said == "works"
        why = None if said == "works" else problem_of(changed, said)
        if why is not None:
            found.append(f"{number} {command} {changed}: {why}: {said}")
    print(f"{len(numbers):,} commands, of which {num_working:,} work")
    assert 0 < num_working < len(numbers)
    return found


@pytest.mark.parametrize("first", range(len(COMMANDS)), ids=COMMANDS)
def test_a_command_works_or_is_refused_by_the_name_of_a_field(inputs, tmp_path, first):
    numbers = range(first, _NUM_QUICK, len(COMMANDS))
    found = problems(inputs, tmp_path, numbers)
    assert not found, "\n".join(found)


@pytest.mark.slow(ci=False)
def test_thousands_of_commands(inputs, tmp_path):
    found = problems(inputs, tmp_path, range(_NUM_SLOW))
    assert not found, "\n".join(found)


@pytest.mark.slow(ci=False)
def test_what_is_not_refused_makes_two_steps(inputs, tmp_path):
    found = problems(inputs, tmp_path, range(_NUM_TRAINED), steps=True)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("number", [0, -1, 1_025, 2**63, 10**30])
def test_a_number_of_workers_that_cannot_be_started(number):
    with pytest.raises(ValueError, match=f"--num-workers {number} is "):
        refuse_workers(number)
