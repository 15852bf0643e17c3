"""A machine's ssh server, in place of sshd: lets in who has the key, and runs what is asked for with bash, at home.

Whoever asks for a terminal gets one, so that what a session leaves behind is hung up on when it ends, as it would be.
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


def takes_terminal():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def pump(read, write):
    with suppress(OSError, asyncssh.Error, asyncssh.TerminalSizeChanged):  # a terminal that is gone is the end
        while chunk := await read(1 << 16):
            await write(chunk)


def writer(stream):
    async def write(chunk):
        stream.write(chunk)
        await stream.drain()

    return write


async def in_terminal(process):
    """Run a command in a terminal of its own; return its status."""
    loop = asyncio.get_running_loop()
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        ["/bin/bash", "-c", process.command or "exec bash"], cwd=os.environ["HOME"],
        stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=takes_terminal,
    )  # fmt: skip
    os.close(theirs)

    async def typed(chunk):
        os.write(ours, chunk)

    async def shown(size):
        return await loop.run_in_executor(None, os.read, ours, size)

    keys = asyncio.create_task(pump(process.stdin.read, typed))
    screen = asyncio.create_task(pump(shown, writer(process.stdout)))
    status = await loop.run_in_executor(None, child.wait)
    await asyncio.wait([screen], timeout=1)  # what it has started may have the terminal open still
    keys.cancel()
    os.close(ours)
    return status


async def through_pipes(process):
    """Run a command whose output goes through pipes; return its status."""
    child = await asyncio.create_subprocess_exec(
        "/bin/bash", "-c", process.command or "exec bash", cwd=os.environ["HOME"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip

    async def feed():
        await pump(process.stdin.read, writer(child.stdin))
        child.stdin.close()

    keys = asyncio.create_task(feed())
    told = [
        asyncio.create_task(pump(child.stdout.read, writer(process.stdout))),
        asyncio.create_task(pump(child.stderr.read, writer(process.stderr))),
    ]
    status = await child.wait()
    await asyncio.wait(told, timeout=1)
    keys.cancel()
    return status


async def serve(process):
    run = in_terminal if process.get_terminal_type() is not None else through_pipes
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
