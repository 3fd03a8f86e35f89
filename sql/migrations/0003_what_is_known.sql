-- What a job that is done again has to know of what was done before.

-- The recording ends with this span: with it, all spans of its options are there.
alter table spans add column last boolean not null default false;

update spans set last = true
from jobs
where jobs.id = spans.job_id and jobs.options_hash = spans.options_hash and jobs.status = 'completed'
    and number = (
        select max(number) from spans as others
        where others.job_id = spans.job_id and others.options_hash = spans.options_hash
    );

-- What the engine said last before it failed.
alter table jobs add column error_log text;

create or replace view jobs_without_text as
select id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model,
    task, requested_language, language, options, options_hash, null::text as transcription_text,
    transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at,
    not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at,
    completed_at, null::text as error_log
from jobs;
