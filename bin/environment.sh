# Sourced by the commands beside it, with $root set: makes $root/.venv with the project installed in place.

find_python() {
    for candidate in "${PYTHON:-python3}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "event-service needs Python 3.11 or newer on PATH (or named by PYTHON)" >&2
    return 1
}

# unmet REQUIREMENT: prints what .venv lacks, in one line. Fails where that cannot be said.
unmet() {
    [ -x "$root/.venv/bin/python" ] && lacking=$("$root/.venv/bin/python" "$root/bin/unmet.py" "$1" 2>/dev/null) &&
        echo "$lacking" | sed ':all; N; $!b all; s/\n/, /g'
}

# prepare_environment STAMP REQUIREMENT: installs REQUIREMENT unless STAMP says that this very setup.cfg was installed, or
# .venv has all that it asks for: after most updates nothing is fetched, so that they need no network.
prepare_environment() {
    stamp="$root/.venv/.installed-$1"
    wanted=$(cat "$root/setup.cfg" "$root/pyproject.toml" | cksum)
    [ "$(cat "$stamp" 2>/dev/null || :)" = "$wanted" ] && return
    (
        # Two commands started at once must not install into one another.
        flock 9
        [ "$(cat "$stamp" 2>/dev/null || :)" = "$wanted" ] && exit 0
        if ! lacks=$(unmet "$2"); then
            lacks=everything
            echo "event-service: setting up $root/.venv; packages are downloaded once, which takes about a minute …" >&2
            python=$(find_python)
            [ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv"
        elif [ -n "$lacks" ]; then
            echo "event-service: downloading what $root/.venv lacks: $lacks …" >&2
        fi
        cd "$root"
        [ -z "$lacks" ] ||
            .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$2" >&2 || {
                echo "event-service: packages cannot be installed. Missing in $root/.venv: $(unmet "$2")." \
                    "Allow the network, or name an index by PIP_INDEX_URL" >&2
                exit 1
            }
        echo "$wanted" > "$stamp"
    ) 9> "$root/.venv.lock"
}
