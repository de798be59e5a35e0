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

# prepare_environment STAMP REQUIREMENT: installs REQUIREMENT unless STAMP says that this very setup.cfg was installed.
prepare_environment() {
    stamp="$root/.venv/.installed-$1"
    wanted=$(cat "$root/setup.cfg" "$root/pyproject.toml" | cksum)
    [ "$(cat "$stamp" 2>/dev/null || :)" = "$wanted" ] && return
    (
        # Two commands started at once must not install into one another.
        flock 9
        [ "$(cat "$stamp" 2>/dev/null || :)" = "$wanted" ] && exit 0
        echo "event-service: setting up $root/.venv; packages are downloaded once, which takes about a minute …" >&2
        python=$(find_python)
        [ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv"
        cd "$root"
        "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$2" >&2
        echo "$wanted" > "$stamp"
    ) 9> "$root/.venv.lock"
}
