"""Runs mongosh scripts in a JavaScript engine (V8, by mini-racer), with a `connect`, `print`, `sleep`.

A script asks its server in the middle of a line, as mongosh lets it. The engine cannot wait for Python there,
so the script is run again from its beginning with one answer more, until it needs no further one. Its clock
is its own, so that it does the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from py_mini_racer import MiniRacer

Ask = Callable[[dict[str, Any]], dict[str, Any]]

_HOST = """
class MinKeyValue { toJSON() { return { $minKey: 1 }; } }
class MaxKeyValue { toJSON() { return { $maxKey: 1 }; } }
function MinKey() { return new MinKeyValue(); }
function MaxKey() { return new MaxKeyValue(); }

function revive(name, value) {
  if (value !== null && typeof value === "object") {
    if ("$date" in value) return new Date(value.$date);
    if ("$minKey" in value) return new MinKeyValue();
    if ("$maxKey" in value) return new MaxKeyValue();
  }
  return value;
}

let answers, used, question, printed, clock;

function ask(asked) {
  if (question) throw new Error("unanswered");
  if (used === answers.length) {
    question = asked;
    throw new Error("unanswered");
  }
  const answer = answers[used++];
  if (answer.error) {
    const error = new Error(answer.error.message);
    error.code = answer.error.code;
    throw error;
  }
  return answer.reply;
}

function database(connection, name) {
  return {
    runCommand: (command) => ask({ ...connection, database: name, command: command }),
    adminCommand: (command) => ask({ ...connection, database: "admin", command: command }),
    getSiblingDB: (other) => database(connection, other),
  };
}

function connect(uri) {
  const form = /^mongodb:\\/\\/(?:([^:@]+):([^@]+)@)?([^:/@]+):\\d+\\/admin\\?.*directConnection=true/;
  const parts = form.exec(uri);
  if (!parts) throw new Error("connect: " + uri);
  const connection = { user: parts[1] || null, password: parts[2] || null, host: parts[3] };
  ask({ ...connection, command: null });
  return database(connection, "admin");
}

function print(...values) { printed.push(values.join(" ")); }
function sleep(milliseconds) {
  if (question) throw new Error("unanswered");
  clock += milliseconds;
}
Date.now = () => clock;

function run(source, given) {
  answers = JSON.parse(given, revive);
  used = 0, question = null, printed = [], clock = 0;
  let failure = null;
  try {
    new Function(source)();
  } catch (error) {
    failure = String(error);
  }
  return JSON.stringify({ question, printed, failure });
}
"""


class Shell:
    def __init__(self) -> None:
        self._engine = MiniRacer()
        self._engine.eval(_HOST)

    def run(self, server: str, source: str, ask: Ask) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of mongosh running *source* in a container."""
        answers: list[dict[str, Any]] = []
        while True:
            given = json.dumps(json.dumps(answers))
            result = json.loads(str(self._engine.eval(f"run({json.dumps(source)}, {given})")))
            if result["question"] is None:
                break
            answers.append(ask(result["question"]))
        printed = "".join(f"{line}\n" for line in result["printed"])
        return (1, printed, f"{result['failure']}\n") if result["failure"] else (0, printed, "")
