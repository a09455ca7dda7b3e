"""A process that starts like a kernel, with the habits that its command line names.

``python fake_kernel_process.py STARTUP_FILE NOTES HABIT...`` appends its process id and its startup
file to the file NOTES, one JSON object a line. It binds five sockets, registers or writes its ports
as the startup file requires, and echoes heartbeats until its parent ends. Habits:

- ``at-registration-dies``, ``at-registration-waits``: it does not know registration files.
- ``hides-ports``: given ports 0 it does not write the ports it took into the file (as ark).
- ``no-heartbeat``: binds it, and never answers.
- ``registers-twice``, ``registers-for=ID``, ``bad-signature``: how it registers.
- ``dies-if=FILE``: at once, with status 7, if that file exists.

Written against the texts, as ``conformance.raw_messages``: nothing of the launcher is imported.
"""

import json
import os
import sys
import threading

import zmq

from echokernel.conformance.raw_messages import CHANNELS, sign_frames


def parent_is_gone(first, pause=0.1):
    """Wait for the launcher's end; it is the parent of a process that it started."""
    event = threading.Event()
    while os.getppid() == first:
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
    threading.Thread(target=parent_is_gone, args=(os.getppid(),), daemon=True).start()
    if "registration_port" in keys and "at-registration-dies" in habits:
        sys.exit("what is a registration_port?")
    if "registration_port" in keys and "at-registration-waits" in habits:
        threading.Event().wait()
    context = zmq.Context()
    sockets, ports = {}, {}
    for channel in CHANNELS:
        made = sockets[channel] = context.socket(zmq.REP if channel == "hb" else zmq.ROUTER)
        made.bind(f"tcp://{keys['ip']}:{keys.get(f'{channel}_port', 0)}")
        ports[f"{channel}_port"] = int(made.getsockopt_string(zmq.LAST_ENDPOINT).split(":")[-1])
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
    main(*sys.argv[1:])
