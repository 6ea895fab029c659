#!/usr/bin/python3
"""What `deploy/check-image.sh` has to know of the Dockerfile and of the compose stack, as lines of bash.

    image.py steps DOCKERFILE STAGE     the instructions of a stage, as calls of functions
    image.py image DOCKERFILE STAGE     what they come to for a container
    image.py context DOCKERIGNORE       the files that an image is built from, each ended by NUL: from `git ls-files -z` on stdin
    image.py service NAME               what a container of that service gets: from `docker-compose config` on stdin

What it does not know is an error: a check that passes over an instruction shows nothing.
"""

import fnmatch
import json
import posixpath
import re
import shlex
import sys


class Unknown(Exception):
    pass


# --- The Dockerfile ---------------------------------------------------------------------------------------------------------


def instructions(text):
    """The instructions with the numbers of their first lines: comments left out, continued lines joined."""
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if re.match(r"#\s*(syntax|escape|check)\s*=", stripped, re.IGNORECASE):
            raise Unknown(f"line {number}: a directive to the builder: `{stripped}`")
        if stripped.startswith("#") or (not stripped and not joined):
            continue
        first = first if joined else number
        if stripped.endswith("\\"):
            joined += line.rstrip()[:-1]
            continue
        joined += line
        word, _, rest = joined.strip().partition(" ")
        yield first, word.upper(), rest.strip()
        joined = ""
    if joined:
        raise Unknown(f"line {first}: the file ends within an instruction")


def flags(rest, known):
    """Takes `--name=value` off the front."""
    found = []
    while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        name, value = match.groups()
        if name not in known:
            raise Unknown(f"the flag --{name}")
        found.append((name, value))
        rest = rest[match.end() :]
    if rest.startswith("--"):
        raise Unknown(f"the flag {rest.split()[0]}")
    return found, rest


def words(rest):
    """A list in JSON, or words; and nothing that a builder would fill in."""
    if rest.startswith("["):
        return json.loads(rest)
    if "$" in rest:
        raise Unknown(f"a variable: `{rest}`")
    return shlex.split(rest)


def command(rest):
    """The two forms of a command: a list, or a line for the shell."""
    return json.loads(rest) if rest.startswith("[") else ["/bin/sh", "-c", rest]


def seconds(text):
    """A duration, as Docker and Compose write it."""
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or not parts:
        raise Unknown(f"the duration `{text}`")
    hours, minutes, rest = (int(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + rest


def cache_of(value):
    options = dict(option.partition("=")[::2] for option in value.split(","))
    if options.pop("type", None) != "cache" or "target" not in options:
        raise Unknown(f"the mount `{value}`: this knows caches alone")
    target, uid = options.pop("target"), options.pop("uid", "0")
    if options:
        raise Unknown(f"`{next(iter(options))}` of the mount `{value}`")
    return f"{target} {uid}"


def call(*arguments):
    return shlex.join(arguments)


def listed(name, values):
    return f"{name}=({shlex.join(values)})"


class Stage:
    """What the instructions so far leave behind for those that follow, and for a container."""

    def __init__(self):
        self.lines = []
        self.user, self.workdir = "root", "/"
        self.env = {}
        self.entrypoint, self.cmd, self.health, self.volumes = [], [], None, []

    def at(self, path):
        return posixpath.normpath(posixpath.join(self.workdir, path))

    def carry_out(self, word, rest):
        known = getattr(self, f"on_{word.lower()}", None)
        if not known:
            raise Unknown(f"the instruction {word}")
        known(rest)

    def on_run(self, rest):
        found, rest = flags(rest, ["mount"])
        if "<<" in rest:
            raise Unknown("a here-document")
        script = shlex.join(json.loads(rest)) if rest.startswith("[") else rest
        self.lines.append(listed("image_env", [f"{name}={value}" for name, value in self.env.items()]))
        self.lines.append(call("run", self.user, self.workdir, script, *(cache_of(value) for _, value in found)))

    def on_copy(self, rest):
        found, rest = flags(rest, ["from", "chown"])
        given = dict(found)
        *sources, target = words(rest)
        if not sources or any(set("*?[") & set(source) for source in sources):
            raise Unknown(f"`COPY {rest}`: this knows files and folders by their names")
        folder = "/" if target.endswith("/") or target == "." else ""
        target = self.at(target)
        self.lines.append(call("copy", given.get("from", ""), given.get("chown", "0:0"), target.rstrip("/") + folder, *sources))

    def on_user(self, rest):
        (self.user,) = words(rest)

    def on_workdir(self, rest):
        (path,) = words(rest)
        self.workdir = self.at(path)
        self.lines.append(call("workdir", self.workdir))

    def on_env(self, rest):
        for pair in words(rest):
            name, is_pair, value = pair.partition("=")
            if not is_pair:
                raise Unknown(f"`ENV {rest}`: write NAME=VALUE")
            self.env[name] = value

    def on_expose(self, rest):
        words(rest)

    def on_volume(self, rest):
        self.volumes += words(rest)

    def on_healthcheck(self, rest):
        found, rest = flags(rest, ["interval", "timeout", "retries", "start-period"])
        if not rest.startswith("CMD "):
            raise Unknown(f"`HEALTHCHECK {rest}`")
        given = dict(found)
        self.health = {
            "command": command(rest.removeprefix("CMD ").strip()),
            "interval": seconds(given.get("interval", "30s")),
            "timeout": seconds(given.get("timeout", "30s")),
            "retries": int(given.get("retries", "3")),
            "start_period": seconds(given.get("start-period", "0s")),
        }

    def on_entrypoint(self, rest):
        self.entrypoint, self.cmd = command(rest), []

    def on_cmd(self, rest):
        self.cmd = command(rest)


def health_lines(health):
    return [
        listed("health", health["command"]),
        f"health_timeout={health['timeout']}",
        f"health_within={health['start_period'] + health['retries'] * health['interval']}",
    ]


def read(path, name):
    stage, found = None, None
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for number, word, rest in instructions(text):
        try:
            if word == "FROM":
                match = re.fullmatch(r"([^\s$-][^\s$]*)(?:\s+AS\s+(\S+))?", rest, re.IGNORECASE)
                if not match:
                    raise Unknown(f"`FROM {rest}`")
                stage = Stage()
                stage.lines.append(call("from", match[1]))
                wanted = stage if match[2] == name else None
                found = found or wanted
            elif not stage:
                raise Unknown(f"{word} before FROM")
            else:
                stage.carry_out(word, rest)
        except (Unknown, ValueError) as error:
            raise Unknown(f"{path}:{number}: not known here: {error}") from error
    if not found:
        raise Unknown(f"{path}: there is no stage `{name}`")
    return found


def steps(path, name):
    print("\n".join(read(path, name).lines))


def image(path, name):
    stage = read(path, name)
    print(listed("image_env", [f"{key}={value}" for key, value in stage.env.items()]))
    print(listed("image_entrypoint", stage.entrypoint))
    print(listed("image_cmd", stage.cmd))
    print(listed("image_volumes", stage.volumes))
    print(f"image_user={shlex.quote(stage.user)}")
    print(f"image_workdir={shlex.quote(stage.workdir)}")
    print("\n".join(health_lines(stage.health) if stage.health else ["health=()"]))


def context(ignore):
    patterns = []
    with open(ignore, encoding="utf-8") as file:
        for line in file:
            pattern = line.strip()
            if not pattern or pattern.startswith("#"):
                continue
            if pattern.startswith("!") or "**" in pattern:
                raise Unknown(f"{ignore}: the pattern `{pattern}`")
            patterns.append(pattern.strip("/").split("/"))

    def ignored(path):
        parts = path.split("/")
        return any(
            len(parts) >= len(pattern) and all(map(fnmatch.fnmatchcase, parts, pattern)) for pattern in patterns
        )

    for path in sys.stdin.read().split("\0"):
        if path and not ignored(path):
            sys.stdout.write(path + "\0")


# --- The compose stack ------------------------------------------------------------------------------------------------------

# What a container has no part in, and what cannot be shown without Docker: its memory limit, its log driver, its restarts.
PASSED_OVER = {"build", "image", "profiles", "restart", "logging", "ports", "expose", "mem_limit"}


def service(name):
    import yaml  # of Debian's python3-yaml, which docker-compose brings

    stack = yaml.safe_load(sys.stdin)
    if name not in stack["services"]:
        raise Unknown(f"there is no service `{name}`")
    given = {key: value for key, value in stack["services"][name].items() if key not in PASSED_OVER}

    def take(key, default):
        return given.pop(key, default)

    def text(value):
        # Compose doubles what it would fill in the next time.
        return str(value).replace("$$", "$")

    lines = [f"service_read_only={'yes' if take('read_only', False) else ''}"]
    gives_up = []
    if (dropped := take("cap_drop", [])) not in ([], ["ALL"]):
        raise Unknown(f"cap_drop: {dropped}")
    if dropped:
        gives_up.append("--bounding-set=-all")
    if (options := take("security_opt", [])) not in ([], ["no-new-privileges:true"]):
        raise Unknown(f"security_opt: {options}")
    if options:
        gives_up.append("--no-new-privs")
    lines.append(listed("service_gives_up", gives_up))
    lines.append(f"service_user={shlex.quote(str(take('user', '')))}")
    entries = (f"{key}={text('' if value is None else value)}" for key, value in take("environment", {}).items())
    lines.append(listed("service_env", list(entries)))
    override = take("command", None)
    if isinstance(override, str):
        override = shlex.split(override)
    lines.append("unset service_cmd" if override is None else listed("service_cmd", [text(word) for word in override]))
    lines.append(listed("service_tmpfs", [entry.replace(":", " ", 1) for entry in take("tmpfs", [])]))
    volumes = []
    for entry in take("volumes", []):
        source, target, mode = (entry.split(":") + ["rw"])[:3]
        volumes.append(f"{source} {target} {mode}")
    lines.append(listed("service_volumes", volumes))
    secrets = []
    for entry in take("secrets", []):
        if set(entry) != {"source"}:
            raise Unknown(f"a secret with {sorted(entry)}")
        secrets.append(f"{entry['source']} {stack['secrets'][entry['source']]['file']}")
    lines.append(listed("service_secrets", secrets))
    lines.append(listed("service_limits", [f"--{key}={value}" for key, value in take("ulimits", {}).items()]))
    lines.append(f"service_grace={seconds(take('stop_grace_period', '10s'))}")
    if health := take("healthcheck", None):
        kind, *words_of = health.pop("test")
        if kind != "CMD":
            raise Unknown(f"a health check by {kind}")
        lines += health_lines(
            {
                "command": [text(word) for word in words_of],
                "interval": seconds(health.pop("interval", "30s")),
                "timeout": seconds(health.pop("timeout", "30s")),
                "retries": health.pop("retries", 3),
                "start_period": seconds(health.pop("start_period", "0s")),
            }
        )
        given.update(health)
    if given:
        raise Unknown(f"the service `{name}` has what is not known here: {', '.join(sorted(given))}")
    print("\n".join(lines))


def main():
    verbs = {("steps", 2): steps, ("image", 2): image, ("context", 1): context, ("service", 1): service}
    verb, *arguments = sys.argv[1:] or ["nothing"]
    if (verb, len(arguments)) not in verbs:
        raise Unknown(f"neither steps, image, context nor service, or not with {len(arguments)} words: {verb}")
    verbs[verb, len(arguments)](*arguments)


if __name__ == "__main__":
    try:
        main()
    except Unknown as error:
        sys.exit(f"image.py: {error}")
