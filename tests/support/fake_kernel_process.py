"""A process that starts like a kernel, with the habits that its command line names.

``python fake_kernel_process.py STARTUP_FILE NOTES HABIT...`` appends its process id and its startup
file to the file NOTES, one JSON object per line. It binds five sockets, registers or writes its
ports as the startup file requires, and echoes heartbeats until its parent ends. Habits:

- ``at-registration-dies``, ``at-registration-waits``: it does not know registration files.
- ``hides-ports``: if the file has ports 0, it does not write the bound ports into it (as ark).
- ``no-heartbeat``: it binds the heartbeat socket and never answers.
- ``registers-twice``, ``registers-for=ID``, ``bad-signature``: how it registers.
- ``dies-if=FILE``: it exits immediately, with status 7, if that file exists.

Written from the texts, as ``conformance.raw_messages`` is: it imports no code of the launcher.
"""

import json
import os
import signal
import sys
import threading

import zmq

from echokernel.conformance.raw_messages import CHANNELS, sign_frames


def exit_with_parent(parent, pause=0.1):
    """Wait until the parent, which is the launcher, has ended; then exit."""
    event = threading.Event()
    while os.getppid() == parent:
        event.wait(pause)
    os._exit(0)


def register(context, keys, ports, habits):
    ip = keys.get("registration_ip", keys["ip"])
    for number in range(2 if "registers-twice" in habits else 1):
        body = {"kernel_id": keys["kernel_id"], **{n: str(p + number) for n, p in ports.items()}}
        for habit in habits:
            if habit.startswith("registers-for="):
                body["kernel_id"] = habit.partition("=")[2]
        key = "wrong" if "bad-signature" in habits else keys["key"]
        peer = context.socket(zmq.DEALER)
        peer.connect(f"tcp://{ip}:{keys['registration_port']}")
        peer.send_multipart(sign_frames(key, json.dumps(body).encode()))
        if number == 0 and len(habits) == habits.count("registers-twice"):
            assert peer.recv_multipart() == sign_frames(keys["key"], b"ACK")


def main(startup_file, notes, *habits):
    for habit in habits:
        if habit.startswith("dies-if=") and os.path.exists(habit.partition("=")[2]):
            sys.exit(7)
    with open(startup_file) as file:
        keys = json.load(file)
    with open(notes, "a") as file:
        file.write(json.dumps({"pid": os.getpid(), "path": startup_file, "keys": keys}) + "\n")
    threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True).start()
    if "registration_port" in keys and "at-registration-dies" in habits:
        sys.exit("registration_port is not supported")
    if "registration_port" in keys and "at-registration-waits" in habits:
        threading.Event().wait()
    context = zmq.Context()
    sockets, ports = {}, {}
    for channel in CHANNELS:
        sock = sockets[channel] = context.socket(zmq.REP if channel == "hb" else zmq.ROUTER)
        sock.bind(f"tcp://{keys['ip']}:{keys.get(f'{channel}_port', 0)}")
        ports[f"{channel}_port"] = int(sock.getsockopt_string(zmq.LAST_ENDPOINT).split(":")[-1])
    if "registration_port" in keys:
        register(context, keys, ports, habits)
    elif "hides-ports" not in habits:
        with open(startup_file, "w") as file:
            json.dump({**keys, **ports}, file)
    while True:
        if "no-heartbeat" in habits:
            threading.Event().wait()
        sockets["hb"].send(sockets["hb"].recv())


if __name__ == "__main__":
    # As an idle kernel does: a restart interrupts the kernel before it kills it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(*sys.argv[1:])
