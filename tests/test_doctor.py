"""The doctor's judgement on fabricated installations, and that a crashing TensorFlow does not take it along."""

import pytest

from aillm_tf import doctor
from aillm_tf.doctor import check_devices, check_packages, check_settings, probe_tensorflow

GOOD = {"python": "3.11.7", "tensorflow": "2.21.0", "tensorflow-text": "2.21.1", "keras": "3.15.1"}
GOOD_TPU = {**GOOD, "tensorflow-tpu": "2.20.0", "tensorflow-text": "2.20.1", "libtpu": "0.0.21.1"}
del GOOD_TPU["tensorflow"]


def without(versions, name):
    return {key: value for key, value in versions.items() if key != name}


@pytest.mark.parametrize("versions", [GOOD, GOOD_TPU, {**GOOD, "libtpu": "0.0.21.1"}], ids=["cpu", "tpu", "aot"])
def test_supported_installations_have_no_findings(versions):
    assert check_packages(versions) == []


@pytest.mark.parametrize(
    ("versions", "text"),
    [
        ({**GOOD_TPU, "tensorflow": "2.20.0"}, "are both installed"),
        ({**GOOD_TPU, "libtpu": "0.0.52"}, "pip install libtpu==0.0.21.1"),
        (without(GOOD_TPU, "libtpu"), "pip install libtpu==0.0.21.1"),
        (without(GOOD, "tensorflow"), "TensorFlow is not installed"),
        (without(GOOD, "tensorflow-text"), "pip install tensorflow-text==2.21.*"),
        ({**GOOD, "tensorflow-text": "2.20.1"}, "pip install tensorflow-text==2.21.*"),
        ({**GOOD, "keras": "2.15.0"}, "pip install 'keras>=3.12'"),
    ],
)
def test_problem_says_what_to_do(versions, text):
    problems = [finding.text for finding in check_packages(versions) if finding.problem]
    assert len(problems) == 1
    assert text in problems[0]


@pytest.mark.parametrize(
    "versions", [{**GOOD, "python": "3.14.0"}, {**GOOD, "tensorflow": "2.22.0", "tensorflow-text": "2.22.0"}]
)
def test_untested_versions_are_a_note_only(versions):
    assert [finding.problem for finding in check_packages(versions)] == [False]


def test_other_keras_backend_is_a_problem(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    home = {"KERAS_HOME": str(tmp_path)}
    assert [finding.problem for finding in check_settings(home)] == [True]
    assert check_settings({**home, "KERAS_BACKEND": "tensorflow"}) == []
    assert check_settings({**home, "KERAS_BACKEND": "jax"}) == []
    assert "KERAS_BACKEND" in check_settings({**home, "KERAS_BACKEND": "torch"})[0].text


def test_bf16_advice_follows_the_measured_time():
    def advice(bf16):
        probed = {"types": ["CPU"], "matmul_seconds": {"float32": 0.02, "bfloat16": bf16}}
        return check_devices(probed)[-1].text

    assert advice(0.01).endswith("use mixed_bfloat16")
    assert advice(0.10).endswith("use float32")


def test_abort_of_the_probed_process_is_a_finding():
    probed, problem = probe_tensorflow(30, code="import os; os.abort()")
    assert probed == {}
    assert "killed by signal 6" in problem.text


def test_hanging_probe_is_a_finding():
    _, problem = probe_tensorflow(0.5, code="import time; time.sleep(60)")
    assert "within" in problem.text


def test_a_problem_makes_exit_code_1_without_trying_tensorflow(monkeypatch, capsys):
    monkeypatch.setattr(doctor.machine, "versions", lambda: {**GOOD_TPU, "libtpu": "0.0.52"})
    monkeypatch.setattr(doctor, "probe_tensorflow", lambda timeout: pytest.fail("TensorFlow was tried"))
    assert doctor.examine() == 1
    assert "PROBLEM: libtpu 0.0.52" in capsys.readouterr().out


def test_healthy_machine_exits_0(monkeypatch, capsys):
    probed = {"devices": ["CPU:0"], "types": ["CPU"], "matmul_seconds": {"float32": 0.02, "bfloat16": 0.01}}
    monkeypatch.setattr(doctor.machine, "versions", lambda: GOOD)
    monkeypatch.setattr(doctor, "check_settings", lambda environment: [])
    monkeypatch.setattr(doctor, "probe_tensorflow", lambda timeout: (probed, None))
    assert doctor.examine() == 0
    assert "ready to train" in capsys.readouterr().out
