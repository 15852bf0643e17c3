"""Stand-in for sshd: accepts clients that have the key, and runs their commands with bash in the home directory.

A client that requests a terminal gets one, so that processes which a session leaves receive SIGHUP when it ends.
"""

import asyncio
import fcntl
import os
import pty
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import asyncssh


def set_controlling_terminal():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def copy_stream(read, write):
    with suppress(OSError, asyncssh.Error, asyncssh.TerminalSizeChanged):  # a closed terminal ends the stream
        while chunk := await read(1 << 16):
            await write(chunk)


def writer(stream):
    async def write(chunk):
        stream.write(chunk)
        await stream.drain()

    return write


async def run_in_terminal(process):
    """Run a command in a terminal of its own; return its exit status."""
    loop = asyncio.get_running_loop()
    parent_end, child_end = pty.openpty()
    child = subprocess.Popen(
        ["/bin/bash", "-c", process.command or "exec bash"], cwd=os.environ["HOME"],
        stdin=child_end, stdout=child_end, stderr=child_end, preexec_fn=set_controlling_terminal,
    )  # fmt: skip
    os.close(child_end)

    async def write_input(chunk):
        os.write(parent_end, chunk)

    async def read_output(size):
        return await loop.run_in_executor(None, os.read, parent_end, size)

    stdin = asyncio.create_task(copy_stream(process.stdin.read, write_input))
    stdout = asyncio.create_task(copy_stream(read_output, writer(process.stdout)))
    status = await loop.run_in_executor(None, child.wait)
    await asyncio.wait([stdout], timeout=1)  # its children may keep the terminal open
    stdin.cancel()
    os.close(parent_end)
    return status


async def run_with_pipes(process):
    """Run a command whose input and output are pipes; return its exit status."""
    child = await asyncio.create_subprocess_exec(
        "/bin/bash", "-c", process.command or "exec bash", cwd=os.environ["HOME"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip

    async def copy_input():
        await copy_stream(process.stdin.read, writer(child.stdin))
        child.stdin.close()

    stdin = asyncio.create_task(copy_input())
    outputs = [
        asyncio.create_task(copy_stream(child.stdout.read, writer(process.stdout))),
        asyncio.create_task(copy_stream(child.stderr.read, writer(process.stderr))),
    ]
    status = await child.wait()
    await asyncio.wait(outputs, timeout=1)
    stdin.cancel()
    return status


async def serve(process):
    run = run_in_terminal if process.get_terminal_type() is not None else run_with_pipes
    status = await run(process)
    process.exit(status if status >= 0 else 128 - status)


async def main(authorized):
    await asyncssh.listen(
        "", 22, server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")], authorized_client_keys=authorized,
        process_factory=serve, encoding=None, line_editor=False,
    )  # fmt: skip
    Path("/tmp/.listens").touch()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
