"""Runs a script once more in user-mode-linux: a Linux of its own, as an ordinary process on the host's files."""

import contextlib, os, shutil, signal, subprocess, sys, tempfile

from lab import TARGET

LINUX, MODULES = "linux.uml", "/usr/lib/uml/modules"
WANTED = "veth bridge sch_netem sch_prio cls_u32"
# Some times what the scripts take.
MOST_SECONDS = 3600


def here():
    return os.environ.get("KEYSTONE_NETNS") == "guest"


def boot():
    """Boots, runs the script, shows what it prints, and ends as it ends. Without user-mode-linux it says so and ends well."""
    missing = [tool for tool in (LINUX, "modprobe", "cc") if shutil.which(tool) is None]
    if missing:
        print(f"{os.path.basename(sys.argv[0])}: no netem: {', '.join(missing)} missing (apt-get install user-mode-linux kmod gcc)")
        sys.exit(0)
    with tempfile.TemporaryDirectory(prefix="keystone-guest-") as folder:
        sys.exit(guest(folder))


def guest(folder):
    os.makedirs(f"{folder}/modules/lib")
    os.symlink(MODULES, f"{folder}/modules/lib/modules")
    shim = f"{folder}/xstate.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", shim, os.path.join(os.path.dirname(__file__), "xstate.c")], check=True)
    command = " ".join(f"'{word}'" for word in [sys.executable, "-B"] + sys.argv)
    with open(f"{folder}/init", "w") as file:
        file.write(f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run
exec >{folder}/output 2>&1 </dev/null
echo 4194304 >/proc/sys/net/core/rmem_max
echo 100000 >/proc/sys/net/core/netdev_max_backlog
for module in {WANTED}; do modprobe -d {folder}/modules "$module"; done
cd '{os.getcwd()}'
CARGO_TARGET_DIR='{TARGET}' KEYSTONE_NETNS=guest {command}
echo $? >{folder}/code
exec halt -f
""")
    os.chmod(f"{folder}/init", 0o755)
    open(f"{folder}/output", "w").close()
    shown = subprocess.Popen(["tail", "-f", f"{folder}/output"])
    with open(f"{folder}/console", "w") as console:
        linux = subprocess.Popen([LINUX, "mem=768M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw",
                                  f"init={folder}/init", f"uml_dir={folder}/", "con=null", "con0=fd:0,fd:1", "quiet"],
                                 env=os.environ | {"LD_PRELOAD": shim}, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                 start_new_session=True)
    try:
        linux.wait(timeout=MOST_SECONDS)
    finally:
        # A guest that stops in a panic leaves processes behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(linux.pid, signal.SIGKILL)
        linux.wait()
        shown.terminate()
    try:
        return int(open(f"{folder}/code").read())
    except (OSError, ValueError):
        print("the guest did not come to its end:", open(f"{folder}/console", errors="replace").read()[-2000:])
        return 1
