-- A database of stt at 1fdd392, with rows of every status: see tests/support/schema_dump.py.
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

CREATE TYPE public.job_priority AS ENUM (
    'low',
    'normal',
    'high'
);

CREATE TYPE public.job_status AS ENUM (
    'pending',
    'processing',
    'completed',
    'failed',
    'cancelled'
);

CREATE TYPE public.media_type AS ENUM (
    'audio',
    'video'
);

CREATE FUNCTION public.job_level(priority public.job_priority, waiting_since timestamp with time zone) RETURNS integer
    LANGUAGE sql STABLE
    AS $$
    select least(2,
        case priority when 'low' then 0 when 'normal' then 1 else 2 end
        + floor(extract(epoch from now() - waiting_since) / 14400)::integer)
$$;

CREATE SEQUENCE public.job_claims
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

SET default_tablespace = '';

SET default_table_access_method = heap;

CREATE TABLE public.jobs (
    id uuid NOT NULL,
    owner text DEFAULT 'local'::text NOT NULL,
    original_filename text NOT NULL,
    file_path text NOT NULL,
    file_type public.media_type NOT NULL,
    file_size bigint NOT NULL,
    duration_seconds double precision,
    status public.job_status DEFAULT 'pending'::public.job_status NOT NULL,
    priority public.job_priority DEFAULT 'normal'::public.job_priority NOT NULL,
    model text NOT NULL,
    task text DEFAULT 'transcribe'::text NOT NULL,
    requested_language text,
    language text,
    options jsonb DEFAULT '{}'::jsonb NOT NULL,
    options_hash text NOT NULL,
    transcription_text text,
    transcription_file_path text,
    stage text,
    progress double precision DEFAULT 0 NOT NULL,
    eta_seconds double precision,
    attempt integer DEFAULT 0 NOT NULL,
    claim bigint DEFAULT 0 NOT NULL,
    worker text,
    claimed_at timestamp with time zone,
    lease_expires_at timestamp with time zone,
    not_before timestamp with time zone DEFAULT now() NOT NULL,
    cancel_requested boolean DEFAULT false NOT NULL,
    warnings jsonb DEFAULT '[]'::jsonb NOT NULL,
    error_code text,
    error_message text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    error_log text,
    error_parameters jsonb,
    CONSTRAINT jobs_check CHECK (((status = 'processing'::public.job_status) = (lease_expires_at IS NOT NULL))),
    CONSTRAINT jobs_check1 CHECK (((status = ANY (ARRAY['completed'::public.job_status, 'failed'::public.job_status, 'cancelled'::public.job_status])) = (completed_at IS NOT NULL))),
    CONSTRAINT jobs_file_size_check CHECK ((file_size > 0)),
    CONSTRAINT jobs_progress_check CHECK (((progress >= (0)::double precision) AND (progress <= (1)::double precision))),
    CONSTRAINT jobs_task_check CHECK ((task = ANY (ARRAY['transcribe'::text, 'translate'::text])))
);

CREATE VIEW public.jobs_without_text AS
 SELECT id,
    owner,
    original_filename,
    file_path,
    file_type,
    file_size,
    duration_seconds,
    status,
    priority,
    model,
    task,
    requested_language,
    language,
    options,
    options_hash,
    NULL::text AS transcription_text,
    transcription_file_path,
    stage,
    progress,
    eta_seconds,
    attempt,
    claim,
    worker,
    claimed_at,
    lease_expires_at,
    not_before,
    cancel_requested,
    warnings,
    error_code,
    error_message,
    created_at,
    updated_at,
    started_at,
    completed_at,
    NULL::text AS error_log,
    error_parameters
   FROM public.jobs;

CREATE VIEW public.queue AS
 WITH owners AS (
         SELECT waiting_1.owner,
            ( SELECT count(*) AS count
                   FROM public.jobs
                  WHERE ((jobs.owner = waiting_1.owner) AND (jobs.status = 'processing'::public.job_status))) AS running,
            ( SELECT jobs.claimed_at
                   FROM public.jobs
                  WHERE ((jobs.owner = waiting_1.owner) AND (jobs.claimed_at IS NOT NULL))
                  ORDER BY jobs.claimed_at DESC
                 LIMIT 1) AS last_served
           FROM ( SELECT DISTINCT jobs.owner
                   FROM public.jobs
                  WHERE (jobs.status = 'pending'::public.job_status)) waiting_1
        ), due AS (
         SELECT jobs.id,
            jobs.owner,
            jobs.created_at,
            jobs.priority,
                CASE
                    WHEN (jobs.claim > 0) THEN jobs.not_before
                    ELSE jobs.created_at
                END AS since
           FROM public.jobs
          WHERE ((jobs.status = 'pending'::public.job_status) AND (jobs.not_before <= now()))
        ), turns AS (
         SELECT due.id,
            due.owner,
            due.created_at,
            owners.running,
            owners.last_served,
            public.job_level(due.priority, GREATEST(due.since, owners.last_served)) AS level,
            row_number() OVER (PARTITION BY due.owner ORDER BY (public.job_level(due.priority, due.since)) DESC, due.created_at, due.id) AS turn
           FROM (due
             JOIN owners USING (owner))
        ), waiting AS (
         SELECT turns.id,
            turns.created_at,
            turns.running,
            turns.last_served,
            turns.turn,
            max(turns.level) OVER (PARTITION BY turns.owner ORDER BY turns.turn DESC) AS level
           FROM turns
        )
 SELECT id,
    row_number() OVER (ORDER BY level DESC, (running + turn), last_served NULLS FIRST, created_at, id) AS "position"
   FROM waiting;

CREATE TABLE public.schema_migrations (
    number integer NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE public.spans (
    job_id uuid NOT NULL,
    options_hash text NOT NULL,
    number integer NOT NULL,
    start double precision NOT NULL,
    "end" double precision NOT NULL,
    segments jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    peaks bytea,
    last boolean DEFAULT false NOT NULL,
    unsure boolean,
    CONSTRAINT spans_number_check CHECK ((number >= 0))
);

CREATE TABLE public.transcripts (
    job_id uuid NOT NULL,
    version integer NOT NULL,
    language text,
    model text NOT NULL,
    segments jsonb NOT NULL,
    author text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT transcripts_version_check CHECK ((version > 0))
);

INSERT INTO public.jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model, task, requested_language, language, options, options_hash, transcription_text, transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at, not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at, completed_at, error_log, error_parameters) VALUES ('0778cd98-0000-0000-0000-000000000008', 'local', 'failed.mp3', 'uploads/0778cd98-0000-0000-0000-000000000008/8', 'audio', 8000, NULL, 'failed', 'normal', 'base', 'transcribe', NULL, NULL, '{}', '4e5ae19b5c280114', NULL, NULL, NULL, 0, NULL, 1, 7, NULL, '2026-11-24 12:07:05+00', NULL, '2026-11-24 12:07:00+00', false, '[]', 'unreadable', 'The file is damaged: it''s cut off.', '2026-11-24 12:07:00+00', '2026-11-24 12:07:30+00', '2026-11-24 12:07:05+00', '2026-11-24 12:07:30+00', 'Traceback
  last', NULL);
INSERT INTO public.jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model, task, requested_language, language, options, options_hash, transcription_text, transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at, not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at, completed_at, error_log, error_parameters) VALUES ('0778cd98-0000-0000-0000-000000000001', 'local', 'waiting, low.mp3', 'uploads/0778cd98-0000-0000-0000-000000000001/1', 'audio', 1000, 90, 'pending', 'low', 'tiny', 'transcribe', NULL, NULL, '{}', '613f18484f729a0d', NULL, NULL, NULL, 0, NULL, 0, 0, NULL, NULL, NULL, '2026-11-24 12:00:00+00', false, '[]', NULL, NULL, '2026-11-24 12:00:00+00', '2026-11-24 12:00:30+00', NULL, NULL, NULL, NULL);
INSERT INTO public.jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model, task, requested_language, language, options, options_hash, transcription_text, transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at, not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at, completed_at, error_log, error_parameters) VALUES ('0778cd98-0000-0000-0000-000000000002', 'somebody', 'video: “prompt”; 日本.mp4', 'uploads/0778cd98-0000-0000-0000-000000000002/2', 'video', 2000, NULL, 'pending', 'high', 'base', 'translate', 'de', NULL, '{"diarize": true, "hotwords": "Ärzte", "max_speakers": 3, "min_speakers": 2, "initial_prompt": "it''s; a \\ prompt", "word_timestamps": false}', '6e9eb03bd0afa983', NULL, NULL, NULL, 0, NULL, 0, 0, NULL, NULL, NULL, '2026-11-24 12:01:00+00', false, '[]', NULL, NULL, '2026-11-24 12:01:00+00', '2026-11-24 12:01:30+00', NULL, NULL, NULL, NULL);
INSERT INTO public.jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model, task, requested_language, language, options, options_hash, transcription_text, transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at, not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at, completed_at, error_log, error_parameters) VALUES ('0778cd98-0000-0000-0000-000000000004', 'local', 'running.flac', 'uploads/0778cd98-0000-0000-0000-000000000004/4', 'audio', 4000, 90, 'processing', 'normal', 'base', 'transcribe', 'en', 'en', '{}', 'd1b92db536fd2c80', NULL, NULL, 'transcribe', 0.5, 12.5, 1, 2, 'host:1', '2026-11-24 12:03:05+00', '2026-11-24 12:03:35+00', '2026-11-24 12:03:00+00', false, '[{"code": "damaged_audio", "message": "2 damaged packets."}]', NULL, NULL, '2026-11-24 12:03:00+00', '2026-11-24 12:03:30+00', '2026-11-24 12:03:05+00', NULL, NULL, NULL);
INSERT INTO public.jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model, task, requested_language, language, options, options_hash, transcription_text, transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at, not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at, completed_at, error_log, error_parameters) VALUES ('0778cd98-0000-0000-0000-000000000005', 'local', 'being cancelled.ogg', 'uploads/0778cd98-0000-0000-0000-000000000005/5', 'audio', 5000, 90, 'processing', 'normal', 'base', 'transcribe', NULL, NULL, '{}', '4e5ae19b5c280114', NULL, NULL, 'decode', 0, NULL, 1, 3, 'host:2', '2026-11-24 12:04:05+00', '2026-11-24 12:04:35+00', '2026-11-24 12:04:00+00', true, '[]', NULL, NULL, '2026-11-24 12:04:00+00', '2026-11-24 12:04:30+00', '2026-11-24 12:04:05+00', NULL, NULL, NULL);
INSERT INTO public.jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model, task, requested_language, language, options, options_hash, transcription_text, transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at, not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at, completed_at, error_log, error_parameters) VALUES ('0778cd98-0000-0000-0000-000000000006', 'local', 'done.mp3', 'uploads/0778cd98-0000-0000-0000-000000000006/6', 'audio', 6000, 90, 'completed', 'normal', 'base', 'transcribe', NULL, 'de', '{"diarize": true}', '4e5ae19b5c280114', 'Hello there.
Grüße, 你好 — “quoted” \ and ''so''.
The second span.', 'results/0778cd98-0000-0000-0000-000000000006/4.json', NULL, 1, NULL, 1, 4, NULL, '2026-11-24 12:05:05+00', NULL, '2026-11-24 12:05:00+00', false, '[{"code": "speakers_few", "message": "Only one voice."}]', NULL, NULL, '2026-11-24 12:05:00+00', '2026-11-24 12:05:30+00', '2026-11-24 12:05:05+00', '2026-11-24 12:05:30+00', NULL, NULL);
INSERT INTO public.jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model, task, requested_language, language, options, options_hash, transcription_text, transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at, not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at, completed_at, error_log, error_parameters) VALUES ('0778cd98-0000-0000-0000-000000000007', 'local', 'done twice.mp3', 'uploads/0778cd98-0000-0000-0000-000000000007/7', 'audio', 7000, 90, 'completed', 'normal', 'base', 'transcribe', 'de', 'de', '{}', 'b73dba00c910f1d9', 'Hello there.
Grüße, 你好 — “quoted” \ and ''so''.', 'results/0778cd98-0000-0000-0000-000000000007/6.json', NULL, 1, NULL, 1, 6, NULL, '2026-11-24 12:06:05+00', NULL, '2026-11-24 12:06:00+00', false, '[]', NULL, NULL, '2026-11-24 12:06:00+00', '2026-11-24 12:06:30+00', '2026-11-24 12:06:05+00', '2026-11-24 12:06:30+00', NULL, NULL);
INSERT INTO public.jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model, task, requested_language, language, options, options_hash, transcription_text, transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at, not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at, completed_at, error_log, error_parameters) VALUES ('0778cd98-0000-0000-0000-000000000003', 'local', 'tried again.wav', 'uploads/0778cd98-0000-0000-0000-000000000003/3', 'audio', 3000, 90, 'pending', 'normal', 'base', 'transcribe', NULL, NULL, '{}', '4e5ae19b5c280114', NULL, NULL, NULL, 0, NULL, 1, 1, NULL, '2026-11-24 12:02:05+00', NULL, '2026-11-24 12:03:10+00', false, '[{"code": "less_memory", "message": "Less memory."}]', 'engine_died', 'The engine ended unexpectedly.', '2026-11-24 12:02:00+00', '2026-11-24 12:02:30+00', '2026-11-24 12:02:05+00', NULL, 'Killed
last line', NULL);
INSERT INTO public.jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model, task, requested_language, language, options, options_hash, transcription_text, transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at, not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at, completed_at, error_log, error_parameters) VALUES ('0778cd98-0000-0000-0000-000000000009', 'local', 'cancelled while waiting.mp3', 'uploads/0778cd98-0000-0000-0000-000000000009/9', 'audio', 9000, 90, 'cancelled', 'normal', 'base', 'transcribe', NULL, NULL, '{}', '4e5ae19b5c280114', NULL, NULL, NULL, 0, NULL, 0, 0, NULL, NULL, NULL, '2026-11-24 12:08:00+00', true, '[]', NULL, NULL, '2026-11-24 12:08:00+00', '2026-11-24 12:08:30+00', NULL, '2026-11-24 12:08:30+00', NULL, NULL);
INSERT INTO public.jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model, task, requested_language, language, options, options_hash, transcription_text, transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at, not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at, completed_at, error_log, error_parameters) VALUES ('0778cd98-0000-0000-0000-00000000000a', 'local', 'cancelled while running.mp3', 'uploads/0778cd98-0000-0000-0000-00000000000a/10', 'audio', 10000, NULL, 'cancelled', 'normal', 'base', 'transcribe', NULL, NULL, '{}', '4e5ae19b5c280114', NULL, NULL, NULL, 0, NULL, 1, 8, NULL, '2026-11-24 12:09:05+00', NULL, '2026-11-24 12:09:00+00', true, '[]', NULL, NULL, '2026-11-24 12:09:00+00', '2026-11-24 12:09:30+00', '2026-11-24 12:09:05+00', '2026-11-24 12:09:30+00', NULL, NULL);
INSERT INTO public.jobs (id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model, task, requested_language, language, options, options_hash, transcription_text, transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at, not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at, completed_at, error_log, error_parameters) VALUES ('0778cd98-0000-0000-0000-00000000000b', 'local', 'done, then asked again.mp3', 'uploads/0778cd98-0000-0000-0000-00000000000b/11', 'audio', 11000, 90, 'pending', 'normal', 'base', 'transcribe', NULL, NULL, '{}', '4e5ae19b5c280114', 'Hello there.
Grüße, 你好 — “quoted” \ and ''so''.
The second span.', 'results/0778cd98-0000-0000-0000-00000000000b/9.json', NULL, 0, NULL, 0, 9, NULL, '2026-11-24 12:10:05+00', NULL, '2026-11-24 12:10:00+00', false, '[]', NULL, NULL, '2026-11-24 12:10:00+00', '2026-11-24 12:10:30+00', NULL, NULL, NULL, NULL);

INSERT INTO public.schema_migrations (number, name, sha256, applied_at) VALUES (1, '0001_jobs.sql', '8087d152bb0464a0efff20788246406ab54f47bb9badf78d1f0261b8d96312f4', '2026-11-24 12:00:00+00');
INSERT INTO public.schema_migrations (number, name, sha256, applied_at) VALUES (2, '0002_peaks.sql', '2b73d55b6c7025572276fb97e0e1c614cad98297d0197f9068382c0e7e789f1a', '2026-11-24 12:00:00+00');
INSERT INTO public.schema_migrations (number, name, sha256, applied_at) VALUES (3, '0003_what_is_known.sql', '69a3be7668058b991e6cd7ac85122eff427b747188af4c56b81674aab8e27e2c', '2026-11-24 12:00:00+00');
INSERT INTO public.schema_migrations (number, name, sha256, applied_at) VALUES (4, '0004_waiting.sql', '0c8c052bd9adbd0827bd9b848dfff9ea789eddf979a7c9862d4340458b231df2', '2026-11-24 12:00:00+00');
INSERT INTO public.schema_migrations (number, name, sha256, applied_at) VALUES (5, '0005_unsure.sql', '3b6efd39e4dc33d85d882819087aedde4c319055c4847fdbbcfef784714c887f', '2026-11-24 12:00:00+00');
INSERT INTO public.schema_migrations (number, name, sha256, applied_at) VALUES (6, '0006_error_parameters.sql', '7f77c67bf455ca05d4044e3844de9cc3990b3981ab88ab292656e15850dd3a62', '2026-11-25 11:10:47.232352+00');

INSERT INTO public.spans (job_id, options_hash, number, start, "end", segments, created_at, peaks, last, unsure) VALUES ('0778cd98-0000-0000-0000-000000000004', 'd1b92db536fd2c80', 0, 0, 45, '[{"end": 1.5, "text": "Hello there.", "start": 0.5, "words": [{"end": 1.0, "word": "Hello", "score": 0.9, "start": 0.5}, {"end": 1.5, "word": "there.", "score": 0.9, "start": 1.0}]}, {"end": 4.0, "text": "Grüße, 你好 — “quoted” \\ and ''so''.", "start": 2.0, "words": [{"end": 2.29, "word": "Grüße,", "score": 0.9, "start": 2.0}, {"end": 2.57, "word": "你好", "score": 0.9, "start": 2.29}, {"end": 2.86, "word": "–", "score": 0.9, "start": 2.57}, {"end": 3.14, "word": "“quoted”", "score": 0.9, "start": 2.86}, {"end": 3.43, "word": "\\", "score": 0.9, "start": 3.14}, {"end": 3.71, "word": "and", "score": 0.9, "start": 3.43}, {"end": 4.0, "word": "''so''.", "score": 0.9, "start": 3.71}]}]', '2026-11-24 12:03:10+00', '\x0019324b647d96afc8e1', false, false);
INSERT INTO public.spans (job_id, options_hash, number, start, "end", segments, created_at, peaks, last, unsure) VALUES ('0778cd98-0000-0000-0000-000000000006', '4e5ae19b5c280114', 0, 0, 45, '[{"end": 1.5, "text": "Hello there.", "start": 0.5, "words": [{"end": 1.0, "word": "Hello", "score": 0.9, "start": 0.5}, {"end": 1.5, "word": "there.", "score": 0.9, "start": 1.0}]}, {"end": 4.0, "text": "Grüße, 你好 — “quoted” \\ and ''so''.", "start": 2.0, "words": [{"end": 2.29, "word": "Grüße,", "score": 0.9, "start": 2.0}, {"end": 2.57, "word": "你好", "score": 0.9, "start": 2.29}, {"end": 2.86, "word": "–", "score": 0.9, "start": 2.57}, {"end": 3.14, "word": "“quoted”", "score": 0.9, "start": 2.86}, {"end": 3.43, "word": "\\", "score": 0.9, "start": 3.14}, {"end": 3.71, "word": "and", "score": 0.9, "start": 3.43}, {"end": 4.0, "word": "''so''.", "score": 0.9, "start": 3.71}]}]', '2026-11-24 12:05:10+00', '\x0019324b647d96afc8e1', false, NULL);
INSERT INTO public.spans (job_id, options_hash, number, start, "end", segments, created_at, peaks, last, unsure) VALUES ('0778cd98-0000-0000-0000-000000000006', '4e5ae19b5c280114', 1, 45, 90, '[{"end": 48.0, "text": "The second span.", "start": 46.0, "words": [{"end": 46.67, "word": "The", "score": 0.9, "start": 46.0}, {"end": 47.33, "word": "second", "score": 0.9, "start": 46.67}, {"end": 48.0, "word": "span.", "score": 0.9, "start": 47.33}]}]', '2026-11-24 12:05:10+00', '\xff0080', true, NULL);
INSERT INTO public.spans (job_id, options_hash, number, start, "end", segments, created_at, peaks, last, unsure) VALUES ('0778cd98-0000-0000-0000-000000000007', '4e5ae19b5c280114', 0, 0, 45, '[{"end": 1.5, "text": "Hello there.", "start": 0.5, "words": [{"end": 1.0, "word": "Hello", "score": 0.9, "start": 0.5}, {"end": 1.5, "word": "there.", "score": 0.9, "start": 1.0}]}, {"end": 4.0, "text": "Grüße, 你好 — “quoted” \\ and ''so''.", "start": 2.0, "words": [{"end": 2.29, "word": "Grüße,", "score": 0.9, "start": 2.0}, {"end": 2.57, "word": "你好", "score": 0.9, "start": 2.29}, {"end": 2.86, "word": "–", "score": 0.9, "start": 2.57}, {"end": 3.14, "word": "“quoted”", "score": 0.9, "start": 2.86}, {"end": 3.43, "word": "\\", "score": 0.9, "start": 3.14}, {"end": 3.71, "word": "and", "score": 0.9, "start": 3.43}, {"end": 4.0, "word": "''so''.", "score": 0.9, "start": 3.71}]}]', '2026-11-24 12:06:10+00', '\x0019324b647d96afc8e1', false, NULL);
INSERT INTO public.spans (job_id, options_hash, number, start, "end", segments, created_at, peaks, last, unsure) VALUES ('0778cd98-0000-0000-0000-000000000007', '4e5ae19b5c280114', 1, 45, 90, '[{"end": 48.0, "text": "The second span.", "start": 46.0, "words": [{"end": 46.67, "word": "The", "score": 0.9, "start": 46.0}, {"end": 47.33, "word": "second", "score": 0.9, "start": 46.67}, {"end": 48.0, "word": "span.", "score": 0.9, "start": 47.33}]}]', '2026-11-24 12:06:10+00', '\xff0080', true, NULL);
INSERT INTO public.spans (job_id, options_hash, number, start, "end", segments, created_at, peaks, last, unsure) VALUES ('0778cd98-0000-0000-0000-000000000003', '4e5ae19b5c280114', 0, 0, 45, '[{"end": 1.5, "text": "Hello there.", "start": 0.5, "words": [{"end": 1.0, "word": "Hello", "score": 0.9, "start": 0.5}, {"end": 1.5, "word": "there.", "score": 0.9, "start": 1.0}]}, {"end": 4.0, "text": "Grüße, 你好 — “quoted” \\ and ''so''.", "start": 2.0, "words": [{"end": 2.29, "word": "Grüße,", "score": 0.9, "start": 2.0}, {"end": 2.57, "word": "你好", "score": 0.9, "start": 2.29}, {"end": 2.86, "word": "–", "score": 0.9, "start": 2.57}, {"end": 3.14, "word": "“quoted”", "score": 0.9, "start": 2.86}, {"end": 3.43, "word": "\\", "score": 0.9, "start": 3.14}, {"end": 3.71, "word": "and", "score": 0.9, "start": 3.43}, {"end": 4.0, "word": "''so''.", "score": 0.9, "start": 3.71}]}]', '2026-11-24 12:02:10+00', '\x0019324b647d96afc8e1', false, true);
INSERT INTO public.spans (job_id, options_hash, number, start, "end", segments, created_at, peaks, last, unsure) VALUES ('0778cd98-0000-0000-0000-000000000007', 'b73dba00c910f1d9', 0, 0, 45, '[{"end": 1.5, "text": "Hello there.", "start": 0.5, "words": [{"end": 1.0, "word": "Hello", "score": 0.9, "start": 0.5}, {"end": 1.5, "word": "there.", "score": 0.9, "start": 1.0}]}, {"end": 4.0, "text": "Grüße, 你好 — “quoted” \\ and ''so''.", "start": 2.0, "words": [{"end": 2.29, "word": "Grüße,", "score": 0.9, "start": 2.0}, {"end": 2.57, "word": "你好", "score": 0.9, "start": 2.29}, {"end": 2.86, "word": "–", "score": 0.9, "start": 2.57}, {"end": 3.14, "word": "“quoted”", "score": 0.9, "start": 2.86}, {"end": 3.43, "word": "\\", "score": 0.9, "start": 3.14}, {"end": 3.71, "word": "and", "score": 0.9, "start": 3.43}, {"end": 4.0, "word": "''so''.", "score": 0.9, "start": 3.71}]}]', '2026-11-24 12:06:10+00', '\x0019324b647d96afc8e1', false, NULL);
INSERT INTO public.spans (job_id, options_hash, number, start, "end", segments, created_at, peaks, last, unsure) VALUES ('0778cd98-0000-0000-0000-000000000007', 'b73dba00c910f1d9', 1, 45, 90, '[{"end": 48.0, "text": "The second span.", "start": 46.0, "words": [{"end": 46.67, "word": "The", "score": 0.9, "start": 46.0}, {"end": 47.33, "word": "second", "score": 0.9, "start": 46.67}, {"end": 48.0, "word": "span.", "score": 0.9, "start": 47.33}]}]', '2026-11-24 12:06:10+00', '\xff0080', true, NULL);
INSERT INTO public.spans (job_id, options_hash, number, start, "end", segments, created_at, peaks, last, unsure) VALUES ('0778cd98-0000-0000-0000-00000000000a', '4e5ae19b5c280114', 0, 0, 45, '[{"end": 1.5, "text": "Hello there.", "start": 0.5, "words": [{"end": 1.0, "word": "Hello", "score": 0.9, "start": 0.5}, {"end": 1.5, "word": "there.", "score": 0.9, "start": 1.0}]}, {"end": 4.0, "text": "Grüße, 你好 — “quoted” \\ and ''so''.", "start": 2.0, "words": [{"end": 2.29, "word": "Grüße,", "score": 0.9, "start": 2.0}, {"end": 2.57, "word": "你好", "score": 0.9, "start": 2.29}, {"end": 2.86, "word": "–", "score": 0.9, "start": 2.57}, {"end": 3.14, "word": "“quoted”", "score": 0.9, "start": 2.86}, {"end": 3.43, "word": "\\", "score": 0.9, "start": 3.14}, {"end": 3.71, "word": "and", "score": 0.9, "start": 3.43}, {"end": 4.0, "word": "''so''.", "score": 0.9, "start": 3.71}]}]', '2026-11-24 12:09:10+00', '\x0019324b647d96afc8e1', false, NULL);

INSERT INTO public.transcripts (job_id, version, language, model, segments, author, created_at) VALUES ('0778cd98-0000-0000-0000-000000000006', 1, 'de', 'base', '[{"end": 1.5, "text": "Hello there.", "start": 0.5, "words": [{"end": 1.0, "word": "Hello", "score": 0.9, "start": 0.5}, {"end": 1.5, "word": "there.", "score": 0.9, "start": 1.0}], "speaker": "SPEAKER_00"}, {"end": 4.0, "text": "Grüße, 你好 — “quoted” \\ and ''so''.", "start": 2.0, "words": [{"end": 2.29, "word": "Grüße,", "score": 0.9, "start": 2.0}, {"end": 2.57, "word": "你好", "score": 0.9, "start": 2.29}, {"end": 2.86, "word": "–", "score": 0.9, "start": 2.57}, {"end": 3.14, "word": "“quoted”", "score": 0.9, "start": 2.86}, {"end": 3.43, "word": "\\", "score": 0.9, "start": 3.14}, {"end": 3.71, "word": "and", "score": 0.9, "start": 3.43}, {"end": 4.0, "word": "''so''.", "score": 0.9, "start": 3.71}], "speaker": "SPEAKER_01"}, {"end": 48.0, "text": "The second span.", "start": 46.0, "words": [{"end": 46.67, "word": "The", "score": 0.9, "start": 46.0}, {"end": 47.33, "word": "second", "score": 0.9, "start": 46.67}, {"end": 48.0, "word": "span.", "score": 0.9, "start": 47.33}], "speaker": "SPEAKER_02"}]', 'whisperx', '2026-11-24 12:05:30+00');
INSERT INTO public.transcripts (job_id, version, language, model, segments, author, created_at) VALUES ('0778cd98-0000-0000-0000-000000000007', 1, 'de', 'base', '[{"end": 1.5, "text": "Hello there.", "start": 0.5, "words": [{"end": 1.0, "word": "Hello", "score": 0.9, "start": 0.5}, {"end": 1.5, "word": "there.", "score": 0.9, "start": 1.0}]}, {"end": 4.0, "text": "Grüße, 你好 — “quoted” \\ and ''so''.", "start": 2.0, "words": [{"end": 2.29, "word": "Grüße,", "score": 0.9, "start": 2.0}, {"end": 2.57, "word": "你好", "score": 0.9, "start": 2.29}, {"end": 2.86, "word": "–", "score": 0.9, "start": 2.57}, {"end": 3.14, "word": "“quoted”", "score": 0.9, "start": 2.86}, {"end": 3.43, "word": "\\", "score": 0.9, "start": 3.14}, {"end": 3.71, "word": "and", "score": 0.9, "start": 3.43}, {"end": 4.0, "word": "''so''.", "score": 0.9, "start": 3.71}]}, {"end": 48.0, "text": "The second span.", "start": 46.0, "words": [{"end": 46.67, "word": "The", "score": 0.9, "start": 46.0}, {"end": 47.33, "word": "second", "score": 0.9, "start": 46.67}, {"end": 48.0, "word": "span.", "score": 0.9, "start": 47.33}]}]', 'whisperx', '2026-11-24 12:06:30+00');
INSERT INTO public.transcripts (job_id, version, language, model, segments, author, created_at) VALUES ('0778cd98-0000-0000-0000-00000000000b', 1, 'de', 'base', '[{"end": 1.5, "text": "Hello there.", "start": 0.5, "words": [{"end": 1.0, "word": "Hello", "score": 0.9, "start": 0.5}, {"end": 1.5, "word": "there.", "score": 0.9, "start": 1.0}]}, {"end": 4.0, "text": "Grüße, 你好 — “quoted” \\ and ''so''.", "start": 2.0, "words": [{"end": 2.29, "word": "Grüße,", "score": 0.9, "start": 2.0}, {"end": 2.57, "word": "你好", "score": 0.9, "start": 2.29}, {"end": 2.86, "word": "–", "score": 0.9, "start": 2.57}, {"end": 3.14, "word": "“quoted”", "score": 0.9, "start": 2.86}, {"end": 3.43, "word": "\\", "score": 0.9, "start": 3.14}, {"end": 3.71, "word": "and", "score": 0.9, "start": 3.43}, {"end": 4.0, "word": "''so''.", "score": 0.9, "start": 3.71}]}, {"end": 48.0, "text": "The second span.", "start": 46.0, "words": [{"end": 46.67, "word": "The", "score": 0.9, "start": 46.0}, {"end": 47.33, "word": "second", "score": 0.9, "start": 46.67}, {"end": 48.0, "word": "span.", "score": 0.9, "start": 47.33}]}]', 'whisperx', '2026-11-24 12:10:30+00');
INSERT INTO public.transcripts (job_id, version, language, model, segments, author, created_at) VALUES ('0778cd98-0000-0000-0000-000000000007', 2, 'de', 'base', '[{"end": 1.5, "text": "Hello there.", "start": 0.5, "words": [{"end": 1.0, "word": "Hello", "score": 0.9, "start": 0.5}, {"end": 1.5, "word": "there.", "score": 0.9, "start": 1.0}]}, {"end": 4.0, "text": "Grüße, 你好 — “quoted” \\ and ''so''.", "start": 2.0, "words": [{"end": 2.29, "word": "Grüße,", "score": 0.9, "start": 2.0}, {"end": 2.57, "word": "你好", "score": 0.9, "start": 2.29}, {"end": 2.86, "word": "–", "score": 0.9, "start": 2.57}, {"end": 3.14, "word": "“quoted”", "score": 0.9, "start": 2.86}, {"end": 3.43, "word": "\\", "score": 0.9, "start": 3.14}, {"end": 3.71, "word": "and", "score": 0.9, "start": 3.43}, {"end": 4.0, "word": "''so''.", "score": 0.9, "start": 3.71}]}]', 'whisperx', '2026-11-24 12:06:30+00');

SELECT pg_catalog.setval('public.job_claims', 9, true);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (number);

ALTER TABLE ONLY public.spans
    ADD CONSTRAINT spans_pkey PRIMARY KEY (job_id, options_hash, number);

ALTER TABLE ONLY public.transcripts
    ADD CONSTRAINT transcripts_pkey PRIMARY KEY (job_id, version);

CREATE INDEX jobs_by_status ON public.jobs USING btree (status, created_at DESC, id DESC);

CREATE INDEX jobs_changed ON public.jobs USING btree (updated_at, id);

CREATE INDEX jobs_completed ON public.jobs USING btree (completed_at DESC) WHERE (status = 'completed'::public.job_status);

CREATE INDEX jobs_leased ON public.jobs USING btree (lease_expires_at) WHERE (status = 'processing'::public.job_status);

CREATE INDEX jobs_newest ON public.jobs USING btree (created_at DESC, id DESC);

CREATE INDEX jobs_pending ON public.jobs USING btree (not_before) WHERE (status = 'pending'::public.job_status);

CREATE INDEX jobs_running ON public.jobs USING btree (owner) WHERE (status = 'processing'::public.job_status);

CREATE INDEX jobs_served ON public.jobs USING btree (owner, claimed_at DESC);

ALTER TABLE ONLY public.spans
    ADD CONSTRAINT spans_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.transcripts
    ADD CONSTRAINT transcripts_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;
