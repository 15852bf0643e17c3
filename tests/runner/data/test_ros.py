"""Bags become rows with the numbers that were written; what a stranger's bag does is refused in one sentence.

rosbags is the extra ``ros``, and no part of the extra ``dev``; without it these tests are skipped.
"""

import bz2
import contextlib
import shutil
import sqlite3
import struct

import numpy as np
import pytest

from actors.limits import MAX_BAG_DEFINITION_BYTES
from runner import GMM, Model
from runner.config.run_config import ConfigError, load_config
from runner.data import ros
from runner.data.datasets import DataError, load
from runner.data.ros import BagOptions, Series, resample

START = 1_700_000_000_000_000_000
KINDS = ("ros1", "sqlite3", "mcap")

rosbags = pytest.importorskip("rosbags", reason="ROS bags are the extra 'ros'")


def ms(*times):
    return [START + round(1e6 * time) for time in times]


def stores():
    from rosbags.typesys import Stores, get_typestore

    return {"ros1": get_typestore(Stores.ROS1_NOETIC), "ros2": get_typestore(Stores.LATEST)}


STORES = stores()


def message(kind, name, /, **fields):
    """Return a message of a type, with zeros where nothing is given."""
    store = STORES["ros1" if kind == "ros1" else "ros2"]
    cls = store.types[name]
    made = {}
    for field, (what, inner) in store.fielddefs[name][1]:
        given = fields.get(field)
        if isinstance(given, dict):
            given = message(kind, inner, **given)
        elif given is None:
            zero = "" if inner[0] == "string" else 0.0 if "float" in inner[0] else 0
            given = message(kind, inner) if int(what) == 2 else np.zeros(inner[1]) if int(what) == 3 else zero
        made[field] = given
    return cls(**made)


def stamped(time, **fields):
    return {"header": {"stamp": {"sec": time // 10**9, "nanosec": time % 10**9}, "frame_id": "base"}, **fields}


def write(path, kind, messages, compressed=""):
    """Write messages (topic, type, time, fields) by rosbags' own writers; return the path of the bag."""
    from rosbags import rosbag1, rosbag2

    if kind == "ros1":
        path, store, writer = path.with_suffix(".bag"), STORES["ros1"], rosbag1.Writer(path.with_suffix(".bag"))
        if compressed:
            writer.set_compression(rosbag1.Writer.CompressionFormat[compressed])
    else:
        plugin = rosbag2.StoragePlugin[kind.upper()]
        store, writer = STORES["ros2"], rosbag2.Writer(path, version=9, storage_plugin=plugin)
        if compressed:
            mode = rosbag2.CompressionMode[compressed]
            writer.set_compression(mode, rosbag2.CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, name, time, fields in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=store)
            serialize = store.serialize_ros1 if kind == "ros1" else store.serialize_cdr
            data = serialize(message(kind, name, **fields), name)
            writer.write(connections[topic], time, data)
    return path


def read(path, *topics, rate=100.0, **options):
    return load("files", observations=path, bags=BagOptions(topics, rate, **options))


def drive(kind):
    """Force at 100 a second from 0 ms, temperature at 20 from 5 ms, and a gripper that closes at 42 ms."""
    force = [
        ("/force", "geometry_msgs/msg/WrenchStamped", t, stamped(t + 3, wrench={"force": {"x": n, "z": -2.0 * n}}))
        for n, t in enumerate(ms(*range(0, 101, 10)))
    ]
    warm = [
        ("/temp", "sensor_msgs/msg/Temperature", t, stamped(t, temperature=20.0 + n))
        for n, t in enumerate(ms(5, 55, 105))
    ]
    grip = [("/grip", "std_msgs/msg/Bool", t, {"data": bool(n)}) for n, t in enumerate(ms(1, 42, 99))]
    return sorted(force + warm + grip, key=lambda each: each[2])


@pytest.mark.parametrize("kind", KINDS)
def test_topics_become_columns_at_the_times_of_one_clock(tmp_path, kind):
    path = write(tmp_path / "drive", kind, drive(kind))
    topics = ("/force.wrench.force", "/temp.temperature", "/grip")
    data = read(path, *topics)
    assert data.columns == (
        *("/force.wrench.force.x", "/force.wrench.force.y", "/force.wrench.force.z"),
        *("/temp.temperature", "/grip.data"),
    )
    clock = 5.0 + 10.0 * np.arange(10)  # ms: from the first temperature to the last message of the gripper
    force = np.interp(clock, np.arange(0, 101, 10), np.arange(11))
    expected = [force, 0 * force, -2 * force, np.interp(clock, [5, 55, 105], [20, 21, 22]), clock >= 42]
    np.testing.assert_allclose(data.observations, np.column_stack(expected), rtol=0, atol=1e-12)
    assert data.mask is None
    assert data.describe().endswith("1 bag at 100 rows a second, by the record time of messages")


def test_all_ways_to_name_a_bag_give_the_same_rows(tmp_path):
    first = read(write(tmp_path / "a", "ros1", drive("ros1")), "/force.wrench").observations
    for kind, suffix in (("sqlite3", "db3"), ("mcap", "mcap")):
        folder = write(tmp_path / kind, kind, drive(kind))
        (file,) = folder.glob(f"*.{suffix}")
        alone = shutil.copy(file, tmp_path / f"alone.{suffix}")
        for path in (folder, file, alone, str(alone)):
            assert (read(path, "/force.wrench").observations == first).all()


@pytest.mark.parametrize(
    ("kind", "compressed"), [("ros1", "BZ2"), ("ros1", "LZ4"), ("mcap", "STORAGE"), ("sqlite3", "MESSAGE")]
)
def test_compressed_bags_are_read(tmp_path, kind, compressed):
    plain = read(write(tmp_path / "plain", kind, drive(kind)), "/force.wrench")
    packed = read(write(tmp_path / "packed", kind, drive(kind), compressed), "/force.wrench")
    assert (plain.observations == packed.observations).all()


def test_the_header_time_is_taken_where_it_is_asked_for(tmp_path):
    times = ms(0, 10, 20, 30)
    late = [time + 7_000_000 for time in times]  # recorded 7 ms later
    body = [
        ("/t", "sensor_msgs/msg/Temperature", b, stamped(a, temperature=float(n)))
        for n, (a, b) in enumerate(zip(times, late, strict=True))
    ]
    other = [("/u", "sensor_msgs/msg/Temperature", t, stamped(t, temperature=1.0 * n)) for n, t in enumerate(times)]
    path = write(tmp_path / "bag", "mcap", sorted(body + other, key=lambda each: each[2]))
    record = read(path, "/t.temperature", "/u.temperature").observations
    header = read(path, "/t.temperature", "/u.temperature", clock="header").observations
    np.testing.assert_allclose(header[:, 0], header[:, 1])
    np.testing.assert_allclose(record[:, 1] - record[:, 0], 0.7)


def test_arrays_are_flattened_and_may_not_change_their_size(tmp_path):
    name = "sensor_msgs/msg/JointState"

    def joints(*sizes):
        return [
            (
                "/joints",
                name,
                t,
                {"name": [], "position": np.arange(size) + 1.0, "velocity": np.zeros(0), "effort": np.zeros(0)},
            )
            for size, t in zip(sizes, ms(0, 10, 20), strict=True)
        ]

    data = read(write(tmp_path / "same", "sqlite3", joints(3, 3, 3)), "/joints")
    assert data.columns == ("/joints.position[0]", "/joints.position[1]", "/joints.position[2]")
    assert data.observations.tolist() == [[1.0, 2.0, 3.0]] * 3
    path = write(tmp_path / "other", "sqlite3", joints(3, 3, 2))
    with pytest.raises(DataError, match="a message of /joints has 2 numbers, the first one has 3; choose fields of a"):
        read(path, "/joints")
    assert read(path, "/joints.header.stamp").columns == ("/joints.header.stamp",)


def temperatures(*times, topic="/t", value=float):
    name = "sensor_msgs/msg/Temperature"
    return [(topic, name, t, stamped(t, temperature=value(n))) for n, t in enumerate(ms(*times))]


def test_rows_in_a_gap_are_missing(tmp_path):
    path = write(tmp_path / "bag", "mcap", temperatures(0, 100, 200, 900, 1000))
    data = read(path, "/t.temperature", rate=10.0, gap=0.5)
    assert data.mask.tolist() == [False] * 3 + [True] * 6 + [False] * 2
    assert data.observations[[0, 1, 2, 9, 10], 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert "6 rows in gaps of more than 0.5 s are missing" in data.describe()
    assert read(path, "/t.temperature", rate=10.0, gap=0.8).mask is None


def test_several_bags_are_sequences(tmp_path):
    paths = [write(tmp_path / name, "mcap", temperatures(*range(0, end, 10))) for name, end in (("b", 51), ("a", 31))]
    data = read(paths, "/t.temperature")
    assert data.lengths.tolist() == [6, 4]
    assert data.observations[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    other = write(tmp_path / "c", "mcap", temperatures(0, 10, topic="/v"))
    with pytest.raises(DataError, match=r"has no topic /t; it has /v .2 messages."):
        read([*paths, other], "/t.temperature")


def test_messages_are_sorted_by_time_and_of_equal_times_the_last_one_counts(tmp_path):
    rows = temperatures(20, 0, 10, 10)
    data = read(write(tmp_path / "bag", "mcap", rows), "/t.temperature", clock="header")
    assert data.observations[:, 0].tolist() == [1.0, 3.0, 0.0]
    assert "1 messages of /t at the time of another one are left out" in data.describe()


def test_the_exact_value_of_a_message_at_the_time_of_the_clock_is_kept():
    times = np.array([0, 10**9 // 3, 10**9], dtype=np.int64)
    values = np.array([[0.1, 5.0], [0.7, 6.0], [0.3, 7.0]])
    found = resample(
        [Series("/a", ["x", "n"], np.array([True, False]), times, values)], BagOptions((), 3.0), "bag", 10**6
    )
    assert found[[0, 3]].tolist() == [[0.1, 5.0], [0.3, 7.0]]
    assert found[1, 0] == pytest.approx(0.7)
    assert found[2, 0] == pytest.approx(0.7 + (0.3 - 0.7) * 0.5, abs=1e-6)
    assert found[:, 1].tolist() == [5.0, 6.0, 6.0, 7.0]


# --- in models ------------------------------------------------------------------------------------------------------

MODEL = """
name: arm
data:
  source: files
  observations: bag
  scale: standard
  ros: {topics: [/t.temperature], rate: 100}
modules: {gmm: {type: gmm, classes: 2, prior_scale: data}}
connections: [data -> gmm]
schedule: {rounds: 1, steps: [gmm]}
"""


def test_a_model_learns_from_a_bag_and_recognizes_another_of_another_kind(tmp_path):
    rows = temperatures(*range(0, 400, 10), value=lambda n: 5.0 * (n % 2) + 0.01 * n)
    write(tmp_path / "bag", "mcap", rows)
    (tmp_path / "arm.yaml").write_text(MODEL)
    model = Model.from_file(tmp_path / "arm.yaml").fit(progress=False)
    new = write(tmp_path / "new", "ros1", rows)
    classes = model.predict(new)
    assert (classes[:-1] != classes[1:]).all()
    assert (classes == model.run.classes["gmm"]).all()
    by_python = Model(gmm=GMM(2, prior_scale="data"), data={"ros": {"topics": ["/t.temperature"], "rate": 100.0}})
    assert len(by_python.fit(new, progress=False).run.classes["gmm"]) == 40


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("data.ros.rate=0", "data.ros.rate: expected a number above 0"),
        ("data.ros.topics=[imu-x]", r"data.ros.topics.0: expected /topic or /topic.field, got 'imu-x'"),
        ("data.ros.gap=-1", "data.ros.gap: expected a number above 0"),
        ("data.ros.clock=wall", "data.ros.clock: expected 'record' or 'header', got 'wall'"),
        ("data.ros.rat=3", r"data.ros.rat: unknown key, .*; did you mean 'rate'\?"),
    ],
)
def test_options_are_checked_with_the_model_file(tmp_path, setting, sentence):
    (tmp_path / "arm.yaml").write_text(MODEL)
    with pytest.raises(ConfigError, match=sentence):
        load_config(tmp_path / "arm.yaml", [setting])


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(path, sentence, *topics, **options):
    with pytest.raises(DataError, match=sentence) as caught:
        read(path, *topics, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_choices_are_refused_with_what_there_is(tmp_path):
    path = write(tmp_path / "drive", "mcap", drive("mcap"))
    there = r"/force .11 messages., /grip .3 messages., /temp .3 messages."
    refused(path, f"has no topic /imu; it has {there}", "/imu")
    refused(path, f"data.ros.topics is missing; choose among {there}")
    refused(
        path,
        r"/temp has no numeric field temprature; its numeric fields are header.stamp, temperature, variance",
        "/temp.temprature",
    )
    refused(
        path,
        "data.ros.rate is missing, the rows a second; of messages a second, /force has 100, /temp has 20",
        "/force",
        "/temp",
        rate=None,
    )
    refused(path, "the messages of /grip have no header; use data.ros.clock: record", "/grip", clock="header")
    refused(path, "have more than 200,000,000 values; use a lower data.ros.rate", "/force", rate=1e9)
    apart = write(tmp_path / "apart", "mcap", [*temperatures(0, 10), *temperatures(50, 60, topic="/u")])
    refused(apart, "/t ends before /u begins; choose topics of the same time", "/t", "/u")
    slow = [*temperatures(0, 100, 200), *temperatures(*range(5, 151, 10), topic="/u")]
    path = write(tmp_path / "slow", "mcap", sorted(slow, key=lambda each: each[2]))
    sentence = "/t has 10 messages a second, so that every row is in a gap of more than 0.05 s; raise data.ros.gap"
    refused(path, sentence, "/t", "/u", gap=0.05)
    with pytest.raises(DataError, match="of ROS bags, only ros, scale, lengths, count and offset are options"):
        load("files", observations=path, divide_by=2.0)
    with pytest.raises(DataError, match="has ROS bags beside others; give one kind"):
        load("files", observations=[path, tmp_path / "x.npy"])
    with pytest.raises(DataError, match="there is no such file"):
        read(tmp_path / "none.mcap", "/t")


@contextlib.contextmanager
def collected(texts):
    """Append the text of a DataError to a list, and raise it again."""
    try:
        yield
    except DataError as error:
        texts.append(str(error))
        raise


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_bag_is_refused_in_one_sentence(tmp_path, kind):
    path = write(tmp_path / "bag", kind, temperatures(*range(0, 500, 10)))
    file = path if kind == "ros1" else next(path.glob(f"*.{'db3' if kind == 'sqlite3' else kind}"))
    whole = file.read_bytes()
    refusals = []
    for number in range(30):
        damaged = bytearray(whole[: len(whole) * (number + 1) // 31] if number % 2 else whole)
        if number % 2 == 0:
            place = len(whole) * number // 31
            damaged[place : place + 8] = b"\xff" * 8
        file.write_bytes(damaged)
        with contextlib.suppress(DataError), collected(refusals):
            assert read(path, "/t.temperature").observations.shape[1] == 1
    assert [text for text in refusals if str(path) not in text or "\n" in text] == []
    assert len(refusals) >= 8


def test_an_empty_file_is_refused(tmp_path):
    for name in ("a.bag", "a.mcap", "a.db3"):
        (tmp_path / name).touch()
        refused(tmp_path / name, "is damaged or no ROS bag|has no topic", "/t")


def test_a_definition_that_is_no_plain_one_is_never_made_code(tmp_path, monkeypatch):
    """rosbags writes the names of types into Python code, which it runs."""
    from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

    from runner.data import ros_bag

    class Connection:
        topic, msgtype = "/t", 'a/msg/B: pass\nraise SystemExit("code")\nclass C'
        msgdef = MessageDefinition(MessageDefinitionFormat.MSG, "float64 x\n")
        msgcount = 1

    class Reader:
        connections = [Connection]

    with pytest.raises(ros_bag.BagError, match="is no name of a message"):
        ros_bag.Bag(Reader, ros1=False).prepare(["/t"])
    Connection.msgtype = "a/msg/B"
    for name, fields in (
        ('a/msg/B"""\nimport os', [("x", (1, ("float64", 0)))]),
        ("a/msg/B", [("x = 1; import os", (1, ("float64", 0)))]),
        ("a/msg/B", [("x", (1, ("float64; import os", 0)))]),
        ("a/msg/B", [("x", (2, "a/msg/C; import os"))]),
        ("a/msg/B", [("x", (3, ((1, ("float64", 0)), "3]; import os")))]),
    ):
        monkeypatch.setattr("rosbags.typesys.get_types_from_msg", lambda *_, n=name, f=fields: {n: ([], f)})
        with pytest.raises(ros_bag.BagError, match="is not one of plain names"):
            ros_bag.Bag(Reader, ros1=False).prepare(["/t"])
    Connection.msgdef = MessageDefinition(MessageDefinitionFormat.MSG, "#" * (MAX_BAG_DEFINITION_BYTES + 1))
    with pytest.raises(ros_bag.BagError, match="which no message needs"):
        ros_bag.Bag(Reader, ros1=False).prepare(["/t"])


def test_constants_of_a_definition_are_left_out(tmp_path):
    from rosbags import rosbag2
    from rosbags.typesys import get_types_from_msg

    store = stores()["ros2"]
    store.register(get_types_from_msg('string CODE="import os"\nint32 LIMIT=3\nfloat64 x\n', "mine/msg/Reading"))
    with rosbag2.Writer(tmp_path / "bag", version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/r", "mine/msg/Reading", typestore=store)
        for n, time in enumerate(ms(0, 10, 20)):
            writer.write(
                connection, time, store.serialize_cdr(store.types["mine/msg/Reading"](x=float(n)), "mine/msg/Reading")
            )
    data = read(tmp_path / "bag", "/r")
    assert (data.columns, data.observations[:, 0].tolist()) == (("/r.x",), [0.0, 1.0, 2.0])


def test_a_part_that_expands_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "bag", "ros1", temperatures(*range(0, 500, 10)), "BZ2")
    whole = path.read_bytes()
    place = whole.index(b"BZh")
    (size,) = struct.unpack("<I", whole[place - 4 : place])
    bomb = bz2.compress(b"\0" * (64 << 20))
    assert len(bomb) < size
    path.write_bytes(whole[:place] + bomb + b"\0" * (size - len(bomb)) + whole[place + size :])
    refused(path, r"a part of .* bytes expands to more than 4,194,304, or is cut off; record it uncompressed", "/t")


def test_a_database_that_computes_is_refused(tmp_path):
    folder = write(tmp_path / "bag", "sqlite3", temperatures(0, 10, 20))
    (file,) = folder.glob("*.db3")
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x, 1, x, x'00' FROM n"
    with sqlite3.connect(file) as database:
        database.execute("ALTER TABLE messages RENAME TO old")
        database.execute(f"CREATE VIEW messages(id, topic_id, timestamp, data) AS {endless}")
    refused(folder, "its database has view messages, which no ROS bag has", "/t")
    with sqlite3.connect(file) as database:
        database.execute("DROP VIEW messages")
        database.execute("CREATE TABLE messages(id, topic_id, timestamp, data AS (zeroblob(1000000000)))")
    refused(folder, "its database has table messages, which no ROS bag has", "/t")


def test_files_that_are_compressed_as_a_whole_are_refused(tmp_path):
    path = write(tmp_path / "bag", "sqlite3", temperatures(0, 10, 20), "FILE")
    refused(path, "its files are compressed as a whole; unpack them with ros2 bag convert", "/t")


def test_too_many_messages_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "bag", "mcap", temperatures(*range(0, 500, 10)))
    monkeypatch.setattr(ros, "MAX_BAG_MESSAGES", 20)
    refused(
        path, "the topics have more than 20 messages or .* values; choose fewer data.ros.topics, or cut the bag", "/t"
    )


def test_without_rosbags_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "bag", "mcap", temperatures(0, 10))
    for name in ("rosbags", "rosbags.rosbag1"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    refused(path, r"read by rosbags, which is not installed .*; run pip install 'serket-actors\[ros\]'", "/t")
