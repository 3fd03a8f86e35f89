"""Every metric of the service: the dashboards, the alert rules and `docs/monitoring.md` name these.

Names follow https://prometheus.io/docs/practices/naming/. The values of labels are few and known: route
templates, enums of ours, models of the settings; never a job, an owner or a file's name. A metric without
labels is 0 in every role; each role counts what it does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

# Else each counter and histogram has a second series, with the time when it began.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Seconds of an answer, from a cached page to the last byte of a large upload.
_ANSWER_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
# Seconds of work on a recording: from a voice message to a day of sound on a CPU.
_WORK_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200)
# Seconds of work for each second of sound; 1 is as fast as the sound plays.
_REAL_TIME_FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5, 10)

# Every role

BUILD = Gauge("stt_build_info", "Always 1; the labels say which program runs.", ["version", "role", "python"])
DB_CONNECTIONS = Gauge(
    "stt_db_pool_connections", "Connections of this process to PostgreSQL.", ["state"]
)  # in_use, idle
DB_CONNECTIONS_MAX = Gauge("stt_db_pool_connections_max", "Connections to PostgreSQL at most.")
STORAGE_FREE = Gauge("stt_storage_free_bytes", "Free room on the disk of recordings and results.")
STORAGE_SIZE = Gauge("stt_storage_size_bytes", "Size of the disk of recordings and results.")
TICKETS = Counter(
    "stt_tickets", "Tickets in Redis, by what was done with them.", ["action"]
)  # enqueued, failed, taken, restored, discarded

# The web app

HTTP_REQUESTS = Counter(
    "stt_http_requests", "Requests answered, by route template.", ["method", "route", "status"]
)  # method: the usual ones, other; route: (none) if the address has none; status: 499 if the client left
HTTP_SECONDS = Histogram(
    "stt_http_request_duration_seconds",
    "Seconds from a request to the end of its answer; not of event streams.",
    ["method", "route"],
    buckets=_ANSWER_SECONDS,
)
HTTP_RUNNING = Gauge("stt_http_requests_in_progress", "Requests being answered, event streams included.")
UPLOADS = Counter("stt_uploads", "Uploads by how they ended.", ["outcome"])  # accepted, refused, failed
UPLOAD_BYTES = Counter("stt_upload_bytes", "Bytes of recordings received, also of refused ones.")
EVENT_LISTENERS = Gauge("stt_event_listeners", "Open event streams.")
EVENT_RESYNCS = Counter(
    "stt_event_resyncs", "Times that listeners read the rows again, because messages may have been lost."
)

# Maintenance: what the rows say. With several maintenance processes each gives the same numbers: use max().

QUEUE_JOBS = Gauge(
    "stt_queue_jobs", "Jobs that wait for a worker.", ["priority", "state"]
)  # due, delayed (until their next attempt)
QUEUE_OLDEST = Gauge(
    "stt_queue_oldest_wait_seconds", "For how long the oldest due job has been waiting.", ["priority"]
)
QUEUE_AUDIO = Gauge("stt_queue_audio_seconds", "Sound of the due jobs whose length is known.", ["priority"])
JOBS = Gauge("stt_jobs", "Jobs that are stored.", ["status", "model", "error_code"])
WORKERS = Gauge("stt_workers", "Workers that have shown themselves in Redis within the last seconds.")
LEASES_EXPIRED = Counter("stt_leases_expired", "Jobs whose worker was gone.")
FILES_REMOVED = Counter("stt_files_removed", "Files that no row named, and that were removed.")
STEP_SUCCESS = Gauge(
    "stt_maintenance_last_success_timestamp_seconds", "When a step last succeeded, in Unix time.", ["step"]
)
STEP_FAILURES = Counter("stt_maintenance_step_failures", "Steps that failed.", ["step"])

# A worker

WORKER_BUSY = Gauge("stt_worker_busy", "1 while this worker has a job.")
ATTEMPTS = Counter(
    "stt_attempts", "Attempts by how they ended.", ["outcome"]
)  # completed, failed, retried, cancelled, handed_back, lost
JOBS_ENDED = Counter("stt_jobs_ended", "Jobs that this worker ended.", ["status", "model", "error_code"])
JOB_SECONDS = Histogram(
    "stt_job_duration_seconds",
    "Seconds of the attempt that completed a job.",
    ["model"],
    buckets=_WORK_SECONDS,
)
STAGE_SECONDS = Histogram(
    "stt_stage_duration_seconds",
    "Seconds that a job waited for a stage; where stages run side by side, for the last of them.",
    ["stage"],
    buckets=_WORK_SECONDS,
)
AUDIO_SECONDS = Counter("stt_audio_seconds", "Sound of the completed jobs.", ["model"])
REAL_TIME_FACTOR = Histogram(
    "stt_real_time_factor",
    "Seconds of work for each second of sound of a completed job that was done in one attempt.",
    ["model"],
    buckets=_REAL_TIME_FACTORS,
)
LEASES_LOST = Counter("stt_leases_lost", "Attempts that ended because their claim was gone.")
ENGINE_RUNNING = Gauge("stt_engine_running", "1 while this worker has an engine.")
ENGINE_STARTS = Counter("stt_engine_starts", "Processes of the engine that were started.")
ENGINE_DEATHS = Counter(
    "stt_engine_deaths", "Processes of the engine that ended.", ["cause"]
)  # idle, stopped (a cancel, a shutdown, a lost claim), hung, killed, signal, exited, error
MODEL_LOADS = Counter("stt_model_loads", "Models that were loaded into an engine.", ["model"])
MODEL_LOAD_SECONDS = Histogram(
    "stt_model_load_duration_seconds", "Seconds to load a model.", ["model"], buckets=_WORK_SECONDS
)
GPU_MEMORY_USED = Gauge("stt_gpu_memory_used_bytes", "Memory in use on the GPU, by anybody.", ["gpu"])
GPU_MEMORY = Gauge("stt_gpu_memory_total_bytes", "Memory of the GPU.", ["gpu"])
GPU_USE = Gauge("stt_gpu_utilization_ratio", "Part of the time in which the GPU computed.", ["gpu"])


OTHER_MODEL = "other"


def model_label(model: str, allowed: Collection[str]) -> str:
    """The value of a label `model`: one of the settings', or "other" for one that only older jobs name."""
    return model if model in allowed else OTHER_MODEL


def begin_at_zero(counter: Counter, values: Iterable[str]) -> None:
    """Make a counter's series for values of its only label: `rate()` misses the first step of a new one."""
    for value in values:
        counter.labels(value)


class Replaced:
    """Gauges of which each reading replaces the last one: a series that is no longer there goes away."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._known: set[tuple[str, ...]] = set()

    def set(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Show these values, by the values of the labels, and no others."""
        for gone in self._known - values.keys():
            self._gauge.remove(*gone)
        for labels, value in values.items():
            self._gauge.labels(*labels).set(value)
        self._known = set(values)
