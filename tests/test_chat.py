"""aillm chat: messages in, answers out; the commands; a terminal and Ctrl-C."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from chats import dialogue

from aillm_tf.cli import main
from aillm_tf.generation.session import ChatSession


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model whose answers are of random tokens and never end."""
    path = tmp_path_factory.mktemp("chat") / "model"
    made = dialogue(max_length=64, initializer_range=0.6)
    made.generation = made.generation.replace(stop_ids=(399,))
    made.save(path)
    return path


def piped(said: bytes, monkeypatch, *arguments: str) -> int:
    """The status of `aillm chat` of which standard input is a pipe with these lines."""
    read, write = os.pipe()
    os.write(write, said)
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        return main(["chat", *arguments])


@pytest.mark.slow
def test_messages_of_a_pipe_are_answered_in_turn(folder, monkeypatch, capfd):
    said = b"one\n\n/nope\ntwo\n/history\n/reset\n/history\n/exit\nthree\n"
    assert piped(said, monkeypatch, str(folder), "--system", "be brief", "--max-new-tokens", "5") == 0
    import aillm_tf

    session = ChatSession(aillm_tf.load(folder), system="be brief")
    first, second = session.answer("one", max_new_tokens=5), session.answer("two", max_new_tokens=5)
    out, err = capfd.readouterr()
    said = f"user: one\nassistant: {first}\nuser: two\nassistant: {second}\n"
    assert [line.strip() for line in out.splitlines()] == [
        line.strip() for line in f"{first}\n{second}\n{said}".splitlines()
    ]
    assert "no command /nope; there are /history, /reset, /stop, /exit" in err


def test_what_does_not_answer_is_refused(tmp_path, make_masked_lm, capsys):
    make_masked_lm().save(tmp_path)
    with pytest.raises(SystemExit):
        main(["chat", str(tmp_path)])
    assert "is a MaskedLM, which does not answer in conversations" in capsys.readouterr().err


def test_a_run_whose_training_did_not_end_is_called_so(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("out: here\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["chat", str(tmp_path)])
    assert "is a run without a model: train it to the end" in capsys.readouterr().err


def test_options_are_refused_before_the_first_message(folder, capsys):
    with pytest.raises(SystemExit):
        main(["chat", str(folder), "--top-p", "2"])
    assert "top_p is a share" in capsys.readouterr().err


@pytest.mark.slow
def test_a_temperature_draws_also_from_a_model_that_answers_by_beams(tmp_path, monkeypatch, capfd):
    made = dialogue(max_length=64, initializer_range=0.6)
    made.generation = made.generation.replace(num_beams=2)
    made.save(tmp_path)
    assert piped(b"one\n", monkeypatch, str(tmp_path), "--max-new-tokens", "5", "--temperature", "0.7") == 0
    expected = ChatSession(made).answer("one", max_new_tokens=5, temperature=0.7)
    assert capfd.readouterr().out.strip() == expected


class Terminal:
    """`aillm chat` in a terminal of its own."""

    def __init__(self, *arguments: str):
        self.screen, theirs = pty.openpty()
        command = [sys.executable, "-m", "aillm_tf.cli", "chat", *arguments]
        environment = {**os.environ, "TERM": "dumb", "TF_CPP_MIN_LOG_LEVEL": "3"}
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        # tests that run in the background are given a Ctrl-C that does nothing
        options = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        self.process = subprocess.Popen(command, **streams, **options, env=environment)
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def wait_for(self, text: str, seconds: float = 120) -> str:
        """What is shown until then, from where the last wait ended."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} did not come, but {self.shown[-200:]!r}"
            if select.select([self.screen], [], [], 1)[0]:
                self.shown += os.read(self.screen, 4096).decode(errors="replace").replace("\r", "")
        before, self.shown = self.shown.split(text, 1)
        return before


@pytest.fixture
def terminal(folder):
    made = Terminal(str(folder), "--max-new-tokens", "50000", "--temperature", "1")
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.screen)


@pytest.mark.slow
def test_a_terminal_with_an_answer_that_is_stopped_by_ctrl_c_and_by_stop(terminal):
    terminal.wait_for("> ")
    terminal.type("one\n")
    terminal.wait_for("one\n")
    for stop in ("ctrl-c", "/stop\n"):
        deadline = time.monotonic() + 120
        while len(terminal.shown) < 200:  # it is being written, and would be for minutes
            assert time.monotonic() < deadline
            terminal.shown += os.read(terminal.screen, 4096).decode(errors="replace")
        if stop == "ctrl-c":
            os.killpg(terminal.process.pid, signal.SIGINT)
            terminal.wait_for("\n> ")
            terminal.type("/history\n")
            assert "user: one\nassistant: " in terminal.wait_for("\n> ")
            terminal.type("two\n")
        else:
            terminal.type(stop)
            terminal.wait_for("\n> ")
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
