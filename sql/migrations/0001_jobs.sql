-- Jobs, what has been recognised of them, and their finished transcripts.

create type job_status as enum ('pending', 'processing', 'completed', 'failed', 'cancelled');
create type job_priority as enum ('low', 'normal', 'high');
create type media_type as enum ('audio', 'video');

-- A claim is a number that only grows: a worker that was thought dead carries an old one and can write nothing.
create sequence job_claims;

create table jobs (
    id uuid primary key,
    owner text not null default 'local',
    original_filename text not null,
    file_path text not null,                -- storage key, relative to the storage root
    file_type media_type not null,
    file_size bigint not null check (file_size > 0),
    duration_seconds double precision,
    status job_status not null default 'pending',
    priority job_priority not null default 'normal',
    model text not null,
    task text not null default 'transcribe' check (task in ('transcribe', 'translate')),
    requested_language text,                -- null: to be detected
    language text,                          -- what is spoken, once it is known
    options jsonb not null default '{}',
    options_hash text not null,             -- names what was asked for: spans of other options are not reused
    transcription_text text,
    transcription_file_path text,           -- storage key of the published JSON, named by its claim
    stage text,
    progress double precision not null default 0 check (progress between 0 and 1),
    eta_seconds double precision,
    attempt integer not null default 0,     -- tries begun; given back when handed back without fault
    claim bigint not null default 0,
    worker text,
    claimed_at timestamptz,
    lease_expires_at timestamptz,
    not_before timestamptz not null default now(),
    cancel_requested boolean not null default false,
    warnings jsonb not null default '[]',
    error_code text,
    error_message text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    completed_at timestamptz,
    check ((status = 'processing') = (lease_expires_at is not null)),
    check ((status in ('completed', 'failed', 'cancelled')) = (completed_at is not null))
);

create index jobs_newest on jobs (created_at desc, id desc);
create index jobs_by_status on jobs (status, created_at desc, id desc);
create index jobs_changed on jobs (updated_at, id);
create index jobs_completed on jobs (completed_at desc) where status = 'completed';
create index jobs_pending on jobs (not_before) where status = 'pending';
create index jobs_leased on jobs (lease_expires_at) where status = 'processing';
create index jobs_served on jobs (owner, claimed_at desc);
create index jobs_running on jobs (owner) where status = 'processing';

create table spans (
    job_id uuid not null references jobs on delete cascade,
    options_hash text not null,
    number integer not null check (number >= 0),
    "start" double precision not null,      -- seconds from the beginning of the recording
    "end" double precision not null,
    segments jsonb not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (job_id, options_hash, number)
);

create table transcripts (
    job_id uuid not null references jobs on delete cascade,
    version integer not null check (version > 0),
    language text,
    model text not null,
    segments jsonb not null,
    author text not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (job_id, version)
);

-- How urgent a job is, 0 to 2. Four hours of waiting raise it by one, so that nothing starves.
create function job_level(priority job_priority, waiting_since timestamptz) returns integer
language sql stable as $$
    select least(2,
        case priority when 'low' then 0 when 'normal' then 1 else 2 end
        + floor(extract(epoch from now() - waiting_since) / 14400)::integer)
$$;

-- The order in which pending jobs that are due will start. An owner's jobs take turns with other owners'.
-- Among an owner's own, a wait counts from the beginning; between owners it counts from when the owner was last
-- served, or a long queue would age past everyone. A job that comes before others of its owner is as urgent as they.
create view queue as
with owners as (
    select owner,
        (select count(*) from jobs where jobs.owner = waiting.owner and status = 'processing') as running,
        (select claimed_at from jobs
            where jobs.owner = waiting.owner and claimed_at is not null
            order by claimed_at desc limit 1) as last_served
    from (select distinct owner from jobs where status = 'pending') as waiting
), turns as (
    select id, owner, created_at, running, last_served,
        job_level(priority, greatest(created_at, last_served)) as level,
        row_number() over (
            partition by owner order by job_level(priority, created_at) desc, created_at, id
        ) as turn
    from jobs join owners using (owner)
    where status = 'pending' and not_before <= now()
), waiting as (
    select id, created_at, running, last_served, turn,
        max(level) over (partition by owner order by turn desc) as level
    from turns
)
select id, row_number() over (
    order by level desc, running + turn, last_served nulls first, created_at, id
) as position
from waiting;

create view jobs_without_text as
select id, owner, original_filename, file_path, file_type, file_size, duration_seconds, status, priority, model,
    task, requested_language, language, options, options_hash, null::text as transcription_text,
    transcription_file_path, stage, progress, eta_seconds, attempt, claim, worker, claimed_at, lease_expires_at,
    not_before, cancel_requested, warnings, error_code, error_message, created_at, updated_at, started_at,
    completed_at
from jobs;
