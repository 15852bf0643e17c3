"""The limits of the package: sizes, counts and times beyond which input is refused, in one place."""

from __future__ import annotations

MAX_HEADER_BYTES = 8 * 1024
"""Size of a packed message header."""

MAX_TEXT_BYTES = 1024
"""Size of a text in a message header."""

MAX_ARRAYS = 15
"""Number of arrays of a message; ``lengths`` and ``mask`` count among them."""

MAX_DIMENSIONS = 8
"""Number of dimensions of an array in a message or of an output."""

MAX_MESSAGE_BYTES = 2**32 - 1
"""Size of a message's arrays together: what one value of msgpack can hold."""

INLINED_BYTES = 1 << 19
"""Size up to which an object of a run goes with the calls themselves, on a cluster that the run has started."""

MAX_NAME_CHARACTERS = 100
"""Characters of the name of a run, module, source, port, metric, output or array of a message."""

MAX_MANIFEST_BYTES = 16 << 20
"""Size of a manifest."""

MAX_STATUS_FILE_BYTES = 64 << 20
"""Size of the unread events that are kept beside a run's commits; the oldest of more are left out."""

MAX_SCATTER_VALUES = 2048
"""Values of an observation up to which a PCA that learns by workers keeps the scatter of its rows, so that runs can be
merged: 32 MiB of float64."""

# --- model files and --set ----------------------------------------------------------------------------------------

MAX_CONFIG_BYTES = 256 << 10
"""Size of a model file or of one value of ``--set``: one of this size is parsed in half a second."""

MAX_CONFIG_CHARACTERS = 128 << 10
"""Characters of all keys and values of a model file together, each alias counted in full, also after defaults are
filled in."""

MAX_CONFIG_NODES = 8_000
"""Keys and values of a model file, each alias counted in full, also after defaults are filled in."""

MAX_CONFIG_DEPTH = 50
"""Maps and lists within each other in a model file, and keys of one path of ``--set``; parsing recurses."""

MAX_NUMBER_CHARACTERS = 100
"""Characters of a number in a model file or data file; what is longer is a text. Conversion takes quadratic time."""

MAX_MODULES = 200
"""Modules of a model file; each is a process."""

MAX_WORKERS = 4096
"""Workers of a module."""

MAX_CONNECTIONS = 2_000
"""Connections of a model file, chains counted by their parts."""

MAX_INTEGER = 2**63 - 1
"""Absolute value of an integer in a model file: what an array of int64 can hold."""

MAX_DURATION = 10_000
"""Rows of the longest segment of a Markov model with explicit durations, ``max_duration``."""

MAX_REGIMES = 1_000
"""Regimes of a Markov model whose transitions depend on one, ``regimes``."""

MAX_POSTERIOR_SAMPLES = 100_000
"""Draws of a Markov model's parameters from their posterior, ``samples``."""

DEFAULT_MAX_DURATION = 300
"""The same where a model file sets none and a sequence has more rows: time and memory grow with it."""

MAX_SECONDS = 10.0**9
"""Timeouts in a model file, in seconds (30 years): the operating system takes no longer ones."""

MAX_TYPE_CHARACTERS = 500
"""Characters of a module type, ``package.module:Class``."""

MAX_PATH_CHARACTERS = 4_096
"""Characters of a path: what Linux can open."""

PIPE_SECONDS = 10.0
"""Time for which a model file that is a pipe may send nothing."""

# --- texts for people ---------------------------------------------------------------------------------------------

MAX_REPORTED_PROBLEMS = 30
"""Problems of one model file that are reported; of more, the number is told."""

MAX_LISTED_NAMES = 50
"""Names that one error message lists, and with which a misspelt name is compared."""

MAX_PRINTED_CHARACTERS = 20_000
"""Characters of one text that is printed, such as an error message with its traceback."""

MAX_PRINTED_LINE = 500
"""Characters of one name or value within a line that is printed."""

MAX_HEAPS = 10_000
"""Limit on the number of glibc's heaps in a process, ``MALLOC_ARENA_MAX``."""

MAX_TERMINAL_WIDTH = 10_000
"""Columns of a terminal, in ``TERMINAL_WIDTH``."""

MAX_ERROR_FILE_CHARACTERS = 1 << 20
"""Characters of the traceback of an internal error, written to a file."""

# --- data files ---------------------------------------------------------------------------------------------------

MAX_EXPANSION = 250
"""How many times larger than a compressed data file its content may be (deflate itself reaches 1,032)."""

FREE_EXPANDED_BYTES = 4 << 20
"""Content that a compressed data file may have whatever its own size is."""

MAX_EXPANDED_BYTES = 16 << 30
"""Content of a compressed data file; what is larger is stored without compression."""

MAX_NPY_HEADER_BYTES = 10_000
"""Size of the header of an array in .npy format, as in numpy."""

MAX_ARCHIVE_INDEX_BYTES = 256 << 10
"""Size of the list of members in an .npz file, about 4,000 members."""

MAX_LINE_BYTES = 4 << 20
"""Length of a line of a text table."""

MAX_COLUMNS = 500_000
"""Columns of a text table; wider rows are stored as .npy."""

MAX_SCALED_COLUMNS = 100_000
"""Columns whose scale is learnt; of rows on disk it is a part of their description, which is a text of a state."""

MAX_PREDICTED_ROWS = 10_000
"""Rows that a script may predict at once; each is held in memory as wide as the rows before it."""

MAX_EMPTY_LINES = 100_000
"""Lines of a text table without data in turn (empty, or comments)."""

MAX_CHECK_SIZE = 100_000
"""Size of a dimension in ``serket check --size``; the checks make messages of that size dozens of times."""

MAX_CACHE_BYTES = 64 << 20
"""Size of the cached copy of a built-in data set."""

MAX_UNPACKED_BYTES = 1 << 30
"""Files in the archive of a package that a data set is read from."""

# --- the user's state directory -----------------------------------------------------------------------------------

MAX_RUN_RECORD_BYTES = 64 << 10
"""Size of the record of a running run in the user's state directory; one has a few hundred bytes."""

# --- files of a run and its commits -------------------------------------------------------------------------------

MAX_COMPONENT_BYTES = 255
"""Size of a single name in a path, in UTF-8: what file systems allow."""

MAX_JSON_VALUES = 500_000
"""Values in a JSON file, counted before it is parsed: they take at most 100 MB."""

MAX_JSON_DEPTH = 100
"""Levels of lists and maps in a JSON file."""

MAX_STATUS_VALUES = 2_000_000
"""Values in the unread events beside a run's commits."""

MAX_FAILURE_BYTES = 1 << 20
"""Size of the text that says why a run failed."""

MAX_FIELD_CHARACTERS = 1_000
"""Characters of a text in a manifest, an environment or a result."""

MAX_ROUND = 999_999_999
"""Rounds of a run, steps of a round, and updates of a module."""

MAX_MANIFEST_ENTRIES = 10_000
"""Modules of a manifest; files and metrics of one module."""

MAX_COMMIT_FILE_BYTES = 64 << 30
"""Size of one file of a commit; it also has to fit into the memory that is free when it is read."""

READ_BLOCK_BYTES = 16 << 20
"""Part of a commit's file that is read at once while its digest is checked."""

MAX_RUN_FILE_BYTES = 1 << 20
"""Size of ``environment.json`` and ``result.json``."""

MAX_EVENT_LOG_BYTES = 4 << 30
"""Size of ``events.jsonl``: about twenty million events."""

MAX_EVENT_BYTES = 1 << 20
"""Length of a line of ``events.jsonl``; longer ones are left out."""

MAX_EVENT_VALUES = 10_000
"""Values of one event."""

MAX_METRICS_FILE_BYTES = 64 << 20
"""Size of ``metrics.csv``: about a million rounds."""

MAX_STORED_FILES = 20_000
"""Files of one observation whose rows stay on disk; their list is a text of a state."""

MAX_CONVERTED_FILES = 10_000_000
"""Parquet files or pictures of one observation, which are converted to shards."""

MAX_IMAGE_SIDE = 100_000
"""Height or width to which pictures are scaled."""

MAX_SHARD_INDEX_BYTES = 8 << 20
"""Size of the list of shards of a conversion: 50 bytes for each of at most 10,000."""

STALE_CONVERSION_SECONDS = 86_400.0
"""Age of a conversion that was left half done, as by SIGKILL, after which another one deletes it."""

MAX_SOUND_BYTES = 256 << 20
"""Size of a sound file, over an hour of speech."""

MAX_TRIALS = 10_000
"""Trials of a sweep."""

MAX_SHOWN_TRIALS = 20
"""Trials whose curves the report of a sweep shows, those that are best."""

MAX_LISTED_RUNS = 10_000
"""Runs that ``serket list`` shows."""

MAX_LISTED_DEPTH = 4
"""Levels of directories below the given one in which ``serket list`` looks for runs."""

MAX_LISTED_ENTRIES = 20_000
"""Files of one run whose sizes ``serket list`` adds up."""

MAX_EXPORT_FILES = 5_000
"""Files of an exported run."""

MAX_EXPORT_INDEX_BYTES = 1 << 20
"""Size of the list of files in an exported run, about 5,000 files."""

MAX_EXPORT_BYTES = 64 << 30
"""Size of an exported run."""

MAX_SOUND_VALUES = 200_000_000
"""Values of the frames of all sounds of one observation, which are in memory: 14 hours in 40 bands, 100 a second."""

MAX_BAG_MESSAGES = 20_000_000
"""Messages of the chosen topics of a ROS bag, each of which is parsed by Python."""

MAX_BAG_VALUES = 200_000_000
"""Numbers in the messages of the chosen topics of a ROS bag, and in the rows of all bags of one observation."""

MAX_BAG_TOPICS = 10_000
"""Connections of a ROS bag."""

MAX_BAG_DEFINITION_BYTES = 256 << 10
"""Size of the definition of a message in a ROS bag; the longest of ROS itself has 20 KB."""

MAX_BAG_METADATA_BYTES = 16 << 20
"""Size of the description of a ROS 2 bag."""

MAX_OUTPUT_BYTES = 1 << 30
"""Size of an output file that is read back, such as decoded class means."""

STRETCH_ROWS = 1_048_576
"""Rows whose messages and outputs a worker has in memory at once, and those of a part of a commit; at least a chunk."""

MAX_WHOLE_ROWS = 100_000
"""Rows up to which sampled outputs have all rows, and modules send messages that their receivers do not read."""

SAMPLED_OUTPUT_ROWS = 1_000
"""Rows of a sampled output of more rows."""

MAX_SHOWN_FAULTS = 20
"""Deaths and recoveries that a live display shows, the last ones."""

MAX_WATCHERS = 16
"""Requests to the page of a run that are answered at the same time."""

MAX_REPORT_READ_BYTES = 1 << 28
"""A message of a commit that is larger is not read for a run's report."""

MAX_PLOTTED_ROWS = 20_000
"""Points of a plot of rows."""

MAX_FAULTS = 1_000
"""Faults that a test asks for in ``SERKET_FAULTS``."""

STORAGE_SECONDS = 120.0
"""Time that one operation of an object store may take, besides the time for its bytes (:data:`STORAGE_RATE`)."""

STORAGE_RATE = 1 << 20
"""Bytes a second that an object store has to transfer."""

PROBE_SECONDS = 60.0
"""Time within which another process has to find a file in the storage of a new run."""

CLAIM_SETTLE_SECONDS = 1.0
"""Time after which a claim in an object store is read back, so that of two that were written together one is left."""

# --- what a module returns ----------------------------------------------------------------------------------------

MAX_FILE_NAME_BYTES = 200
"""Size of an output's name in UTF-8; with its suffix it is a file name, of which Linux allows 255 bytes."""

MAX_METRICS = 1000
"""Number of metrics of one update; the manifest of a commit holds them."""

MAX_MESSAGES = 10_000
"""Number of messages of one update; one for each receiver of each port."""

MAX_OUTPUTS = 1000
"""Number of outputs of one update; each is a file in the run directory."""

MAX_STATE_ENTRIES = 50_000
"""Number of entries of a module's state; the header of a safetensors document has at most 100 MB."""

MAX_STATE_NAME_BYTES = 1024
"""Size of the name of a state's entry in UTF-8."""

MAX_STATE_TEXT_BYTES = 8 << 20
"""Number of characters of all texts in a state, which are in the header of its document."""

MAX_INTEGER_BITS = 1024
"""Size of an integer in a state; Python converts at most 4,300 digits to text and back."""

MAX_EXCEPTION_CHARACTERS = 8_000
"""Length of an exception's text in an error message and in the failure file; what is longer is cut in the middle."""

MAX_ERROR_CHARACTERS = 64_000
"""Length of an error message with a traceback; what is longer is cut in the middle."""

# --- waiting ------------------------------------------------------------------------------------------------------

COORDINATOR_SECONDS = 30.0
"""Time within which a coordinator that has answered before has to answer again; then its process is killed, and Ray
starts it again. It answers from a thread of its own, also while modules learn."""

MODULE_REPLY_SECONDS = 60.0
"""Least time that a module has for loading a state, for reading or writing its part of a commit, and for preparation,
where the run has a ``recovery.timeout``; that itself is meant for an update."""

JOIN_SECONDS = 60.0
"""Time that a round waits for the process of a worker on a node that has joined."""

MAX_KEPT_PARAMETER_BYTES = 1 << 20
"""Parameters of up to this size are kept by the workers of a module, which get only those arrays that change. Larger
ones, as of networks, change in each step."""

MAX_FRAME_BYTES = 2**32 - 1
"""Size of the arrays that a worker sends to another one at once, as in :data:`MAX_MESSAGE_BYTES`."""

MAX_FRAME_HEADER_BYTES = 16 << 20
"""Size of the description of these arrays: about a hundred bytes each, and texts of a state."""

MAX_FRAME_DEPTH = 20
"""Levels of lists and maps in what a worker sends."""

CONNECT_SECONDS = 5.0
"""Time for connections between the workers of a module, once for many updates; without them they exchange sums by calls
of actors. Also the time that one who connects has to prove who it is."""

LOST_WORKER_SECONDS = 10.0
"""Time for which Ray is waited for to say that a worker has died, after a connection to it was lost."""

PEER_SECONDS = 30.0
"""Time after which an idle connection to a host that answers nothing is ended by the operating system."""

MAX_WAITING_STRANGERS = 64
"""Connections at a time, beside those of the workers, that have not proven yet who they are."""

KILL_SECONDS = 2.0
"""Time after which a process that Ray was asked to kill receives SIGKILL from a task on its node."""

STATUS_SECONDS = 2.0
"""Time that a module's process has to say what it is doing."""

STOP_REQUEST_SECONDS = 5.0
"""Time that a coordinator has to end the modules' processes; then they are ended without it."""

STOP_GRACE_SECONDS = 5.0
"""Time from SIGTERM or SIGHUP to the end of the current step; then the run ends at once. Slurm sends SIGKILL after
30 s, other batch systems after 10 s."""

SHUTDOWN_SECONDS = 15.0
"""Time that Ray has to end the cluster of this process, whose processes then receive SIGKILL, or to leave another one,
after which this process ends."""

WATCH_SECONDS = 1.0
"""Time between two looks at the processes of the cluster."""

GCS_SECONDS = 20.0
"""Time for which the control service (GCS) of a cluster that is joined may not answer, since a cluster with persistent
storage starts it again, and for which the GCS or the raylet of any cluster may be stopped (SIGSTOP). Ray's own limit is
60 s. A process of a cluster that this process has started is not awaited once it is gone."""

# --- events -------------------------------------------------------------------------------------------------------

MAX_KEPT_EVENTS = 1_000
"""Events that a coordinator keeps after its driver has fetched them, for those who follow the run later."""

MAX_COMMIT_EVENT_BYTES = 256 << 10
"""Events in a manifest, as JSON; more that no driver has fetched are written into a file of their own."""

MAX_UNREAD_EVENTS = 5_000
"""Events that a coordinator keeps in memory until a driver fetches them, about 5 MB; then they are written beside the
commits."""

MAX_DURABLE_DIRECTORIES = 64
"""Directories of which a process remembers that it has synced them, those that it used last; others are synced again.
A process writes into one directory a round, and remembers the parents of its storage beside it."""

LOOPBACK_SECONDS = 2.0
"""Time that a connection of this machine to itself may take."""

TOKEN_PROBE_SECONDS = 5.0
"""Time that a cluster has to say whether it requires a token."""

DEATH_REPORT_SECONDS = 1.0
"""Time that a cluster has to say why a process died; Ray publishes that a moment after the death itself."""

MAX_WINDOW_ROWS = 1_000_000
"""Rows of a window, and from one window to the next."""
