-- Every statement of the program, by name. Every transition of a job is one conditional statement here:
-- if it returns no row, another process was first and nothing was changed.

-- name: insert_job^
-- Insert a job, whose file is already durable.
insert into jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds,
    priority, model, task, requested_language, options, options_hash, request_id)
values (:id, :owner, :original_filename, :file_path, :file_type, :file_size, :duration_seconds,
    :priority, :model, :task, :requested_language, :options, :options_hash, :request_id)
returning *;

-- name: get_job^
-- A job of the owner; its text, which may be long, only if asked for.
select id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model,
    task, requested_language, language, options, options_hash,
    case when :text::boolean then transcription_text end as transcription_text,
    transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at,
    not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at,
    completed_at, error_log, error_parameters, request_id
from jobs where id = :id and (:owner::text is null or owner = :owner);

-- name: queue_position$
-- How many jobs of all owners start before this job of the owner, plus one; null if it is not due.
select position from queue join jobs using (id) where id = :id and (:owner::text is null or owner = :owner);

-- name: list_jobs
-- A page of the owner's jobs, newest first, after the cursor (created_at, id).
select * from jobs_without_text
where (:owner::text is null or owner = :owner)
    and (:status::job_status is null or status = :status)
    and (:q::text is null or strpos(lower(original_filename), lower(:q)) > 0)
    and (:before_created::timestamptz is null or (created_at, id) < (:before_created, :before_id::uuid))
order by created_at desc, id desc
limit :limit;

-- name: jobs_changed_since
-- The owner's jobs that have changed since a time, oldest change first, after the job :after of the page before.
select * from jobs_without_text where (updated_at, id) > (:since, :after::uuid) and (:owner::text is null or owner = :owner)
order by updated_at, id limit :limit;

-- name: active_jobs
-- The owner's jobs that wait or run, oldest first.
select * from jobs_without_text
where status in ('pending', 'processing') and (:owner::text is null or owner = :owner)
order by created_at, id;

-- name: ended_among
-- Those of the given jobs that have ended, for a page that may have lost the message about it.
select * from jobs_without_text
where id = any(:ids::uuid[]) and status in ('completed', 'failed', 'cancelled')
    and (:owner::text is null or owner = :owner)
order by updated_at, id;

-- name: server_time$
-- PostgreSQL's clock, by which all leases and events are timed.
select clock_timestamp();

-- name: lock_claims$
-- Held to the end of the transaction: claims are taken one after the other, so that turns are fair.
select pg_advisory_xact_lock(7345001);

-- name: claim_next^
-- Give the first job of the queue to this worker.
update jobs
set status = 'processing', claim = nextval('job_claims'), attempt = attempt + 1, worker = :worker,
    claimed_at = clock_timestamp(), lease_expires_at = clock_timestamp() + make_interval(secs => :lease),
    started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp(),
    stage = 'decode', eta_seconds = null, cancel_requested = false, error_code = null, error_message = null,
    error_parameters = null, error_log = null
where id = (
    select jobs.id from jobs join queue using (id)
    where jobs.status = 'pending'
    order by queue.position
    limit 1
    for update of jobs skip locked
)
returning *;

-- name: heartbeat^
-- Renew the lease and store the progress; the row says whether a cancel was requested.
update jobs
set lease_expires_at = clock_timestamp() + make_interval(secs => :lease),
    stage = :stage, progress = greatest(progress, :progress), eta_seconds = :eta_seconds,
    duration_seconds = coalesce(:duration_seconds, duration_seconds),
    language = coalesce(:language, language), warnings = :warnings, updated_at = clock_timestamp()
where id = :id and claim = :claim and status = 'processing'
returning *;

-- name: save_span^
-- Store a finished span, unless the worker no longer has the claim.
with mine as (
    select id, options_hash from jobs where id = :id and claim = :claim and status = 'processing' for update
)
insert into spans (job_id, options_hash, number, "start", "end", segments, last, peaks, unsure)
select id, options_hash, :number::integer, :start::float8, :end::float8, :segments::jsonb, :last::boolean,
    :peaks::bytea, :unsure::boolean
from mine
on conflict (job_id, options_hash, number)
do update set "start" = excluded."start", "end" = excluded."end", segments = excluded.segments,
    last = excluded.last, peaks = excluded.peaks, unsure = excluded.unsure, created_at = excluded.created_at
returning job_id;

-- name: get_spans
-- The finished spans of a job's options, in order.
select number, "start", "end", segments, last, unsure, created_at from spans
where job_id = :id and options_hash = :options_hash order by number;

-- name: spans_since
-- The spans of these jobs that were saved since a time, each with the number of its first segment; as in get_spans,
-- of the job's present options, and up to the first span that is missing.
select id, first, segments
from (
    select jobs.id, spans.number, spans.segments, spans.created_at,
        row_number() over earlier - 1 as place,
        coalesce(sum(jsonb_array_length(spans.segments)) over (
            earlier rows between unbounded preceding and 1 preceding
        ), 0)::integer as first
    from jobs join spans on spans.job_id = jobs.id and spans.options_hash = jobs.options_hash
    where jobs.id = any(:ids::uuid[])
    window earlier as (partition by jobs.id order by spans.number)
) as numbered
where number = place and created_at >= :since
order by id, number;

-- name: get_peaks
-- The waveform of a recording, in pieces; the same for all options.
select "start", peaks from spans where job_id = :id and peaks is not null order by options_hash, number;

-- name: complete_job^
-- Complete a job: from now on its row names the result file, which was written before.
update jobs
set status = 'completed', stage = null, progress = 1, eta_seconds = null, lease_expires_at = null, worker = null,
    transcription_text = :text, transcription_file_path = :file_path, language = :language,
    duration_seconds = coalesce(:duration_seconds, duration_seconds), warnings = :warnings,
    completed_at = clock_timestamp(), updated_at = clock_timestamp()
where id = :id and claim = :claim and status = 'processing' and not cancel_requested
returning *;

-- name: insert_transcript!
-- The next version of a transcript.
insert into transcripts (job_id, version, language, model, segments, author)
select :id::uuid, 1 + coalesce(max(version), 0), :language::text, :model::text, :segments::jsonb, :author::text
from transcripts where job_id = :id::uuid;

-- name: latest_transcript^
-- The newest version of a transcript.
select version, language, model, segments, author, created_at from transcripts
where job_id = :id order by version desc limit 1;

-- name: fail_job^
-- The attempt failed for good: the job ends with a reason for a person, and the log of the engine.
update jobs
set status = 'failed', stage = null, eta_seconds = null, lease_expires_at = null, worker = null,
    error_code = :code, error_message = :message, error_parameters = :parameters, error_log = :log,
    warnings = :warnings,
    completed_at = clock_timestamp(), updated_at = clock_timestamp()
where id = :id and claim = :claim and status = 'processing' and not cancel_requested
returning *;

-- name: retry_later^
-- After a failure that may pass the job waits for its next attempt; the row has the reason meanwhile. The attempt
-- does not count (:given_back is 1) if the job was not the cause.
update jobs
set status = 'pending', stage = null, eta_seconds = null, lease_expires_at = null, worker = null,
    attempt = attempt - :given_back::integer,
    not_before = clock_timestamp() + make_interval(secs => :delay), warnings = :warnings,
    error_code = :code, error_message = :message, error_parameters = :parameters, error_log = :log,
    updated_at = clock_timestamp()
where id = :id and claim = :claim and status = 'processing' and not cancel_requested
returning *;

-- name: hand_back^
-- The worker stops for another reason: the attempt does not count, and not_before stays.
update jobs
set status = 'pending', stage = null, eta_seconds = null, lease_expires_at = null, worker = null,
    attempt = attempt - 1, updated_at = clock_timestamp()
where id = :id and claim = :claim and status = 'processing' and not cancel_requested
returning *;

-- name: fail_waiting^
-- Fail a waiting job that no worker could do, because its recording is gone.
update jobs
set status = 'failed', error_code = :code, error_message = :message, error_parameters = null,
    completed_at = clock_timestamp(), updated_at = clock_timestamp()
where id = :id and status = 'pending'
returning *;

-- name: request_cancel^
-- A waiting job is cancelled at once; a running one is asked to stop, which its worker sees at its next heartbeat.
update jobs
set cancel_requested = true, updated_at = clock_timestamp(),
    status = case status when 'pending' then 'cancelled'::job_status else status end,
    completed_at = case status when 'pending' then clock_timestamp() end
where id = :id and status in ('pending', 'processing') and (:owner::text is null or owner = :owner)
returning *;

-- name: finish_cancel^
-- The worker has stopped a job whose cancellation was requested.
update jobs
set status = 'cancelled', stage = null, eta_seconds = null, lease_expires_at = null, worker = null,
    completed_at = clock_timestamp(), updated_at = clock_timestamp()
where id = :id and claim = :claim and status = 'processing' and cancel_requested
returning *;

-- name: restart_job^
-- Restart an ended job, perhaps with other options. Spans are reused if the recognition options are unchanged; a
-- completed job is recognised again unless only diarization options differ or diarization failed. If the reused spans
-- are complete, the recording is not decoded again, so its warnings are kept, except the outdated ones. Spans
-- that were made for the new options before the row had others are deleted: their language is no longer known.
with old as (
    select id, status, options_hash = :options_hash and (
        status <> 'completed' or options <> :options or warnings @> '[{"code": "speakers_failed"}]'
    ) as kept,
        exists (
            select from spans where job_id = jobs.id and spans.options_hash = :options_hash and last
        ) as known
    from jobs
    where id = :id and status in ('failed', 'cancelled', 'completed') and (:owner::text is null or owner = :owner)
    for update
), forgotten as (
    delete from spans using old
    where spans.job_id = old.id and not old.kept and options_hash = :options_hash
)
update jobs
set status = 'pending', stage = null, progress = 0, eta_seconds = null, attempt = 0, cancel_requested = false,
    not_before = clock_timestamp(), started_at = null, completed_at = null, error_code = null,
    error_message = null, error_parameters = null, error_log = null, updated_at = clock_timestamp(),
    warnings = case when old.kept and old.known then (
        select coalesce(jsonb_agg(warning order by place), '[]')
        from jsonb_array_elements(warnings) with ordinality as listed (warning, place)
        where warning ->> 'code' <> all(:outdated::text[])
    ) else '[]' end,
    model = :model, task = :task, requested_language = :requested_language,
    language = case when old.kept then language else :requested_language end,
    priority = :priority, options = :options, options_hash = :options_hash, request_id = :request_id
from old
where jobs.id = old.id
returning jobs.*;

-- name: delete_job^
-- Remove a job, and with it its spans and transcripts.
delete from jobs where id = :id and (:owner::text is null or owner = :owner) returning file_path, owner, claim;

-- name: estimated_start$
-- When the job at a position of the queue will start, if all goes on as it did: the audio before it, at the pace
-- of the last jobs, shared among the workers that run now. Null while nothing is known of the pace.
with recent as (
    select extract(epoch from completed_at - claimed_at) / duration_seconds as pace
    from jobs
    where status = 'completed' and duration_seconds > 0 and claimed_at is not null
    order by completed_at desc
    limit 20
), ahead as (
    select coalesce(sum(coalesce(jobs.duration_seconds, 600)), 0) as seconds
    from queue join jobs using (id) where queue.position < :position
), running as (
    select count(*) as workers,
        coalesce(sum(greatest(coalesce(duration_seconds, 600) * (1 - progress), 0)), 0) as seconds
    from jobs where status = 'processing'
)
select clock_timestamp() + make_interval(
    secs => least((ahead.seconds + running.seconds) * pace.median / greatest(running.workers, 1), 1e9))
from ahead, running,
    (select percentile_cont(0.5) within group (order by pace) as median from recent) as pace
where pace.median is not null;

-- name: expired_leases
-- Jobs whose lease has expired; locked, so that two maintenance processes share the work.
select * from jobs where status = 'processing' and lease_expires_at < clock_timestamp()
order by lease_expires_at limit 100 for update skip locked;

-- name: count_due$
-- How many jobs could start now: each needs a ticket.
select count(*) from jobs where status = 'pending' and not_before <= clock_timestamp();

-- name: queue_numbers
-- For each priority: the jobs that are due, and those that wait for their next attempt; the seconds for which the
-- oldest due one has waited, and the sound of the due ones. A waiting row was last updated when it began to wait.
select priority::text, count(*) filter (where due) as due, count(*) filter (where not due) as delayed,
    coalesce(extract(epoch from clock_timestamp() - min(since) filter (where due)), 0)::float8 as oldest,
    coalesce(sum(duration_seconds) filter (where due), 0)::float8 as audio
from (
    select priority, duration_seconds, not_before <= clock_timestamp() as due,
        greatest(not_before, updated_at) as since
    from jobs where status = 'pending'
) as waiting
group by priority;

-- name: job_numbers
-- How many jobs are stored, by status, model, and the reason of those that failed.
select status::text, model, count(*),
    case when status = 'failed' then coalesce(error_code, '') else '' end as error_code
from jobs group by 1, 2, 4;

-- name: waiting_files
-- The recordings that workers will open.
select id, file_path as key from jobs where status = 'pending';

-- name: stored_keys
-- Every storage key that a row names.
select file_path as key from jobs
union all select transcription_file_path from jobs where transcription_file_path is not null;

-- name: lock_migrations$
-- Held for the session: one process migrates at a time.
select pg_advisory_lock(7345000);

-- name: create_migrations_table#
-- The table of applied migrations, on a new database.
create table if not exists schema_migrations (
    number integer primary key,
    name text not null,
    sha256 text not null,
    applied_at timestamptz not null default clock_timestamp()
);

-- name: applied_migrations
-- The migrations that this database has, each with the digest of its file.
select number, name, sha256 from schema_migrations;

-- name: newest_migration$
-- The number of the newest migration that this database has; null if none.
select max(number) from schema_migrations;

-- name: record_migration!
-- A migration has been applied.
insert into schema_migrations (number, name, sha256) values (:number, :name, :sha256);
