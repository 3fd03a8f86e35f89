-- The id of the HTTP request that started the job, an upload or a retry: every line of the log about the job has it,
-- also those of workers. Null for jobs that were not started by a request, and for those of earlier versions.
alter table jobs add column request_id text;

create or replace view jobs_without_text as
select id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model,
    task, requested_language, language, options, options_hash, null::text as transcription_text,
    transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at,
    not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at,
    completed_at, null::text as error_log, error_parameters, request_id
from jobs;
