-- What is done again waits from when that was asked: five hundred old recordings tried again must not have aged past
-- an urgent new one. `not_before` is when a job that was begun before began to wait again.

create or replace view queue as
with owners as (
    select owner,
        (select count(*) from jobs where jobs.owner = waiting.owner and status = 'processing') as running,
        (select claimed_at from jobs
            where jobs.owner = waiting.owner and claimed_at is not null
            order by claimed_at desc limit 1) as last_served
    from (select distinct owner from jobs where status = 'pending') as waiting
), due as (
    select id, owner, created_at, priority, case when claim > 0 then not_before else created_at end as since
    from jobs
    where status = 'pending' and not_before <= now()
), turns as (
    select id, owner, created_at, running, last_served,
        job_level(priority, greatest(since, last_served)) as level,
        row_number() over (partition by owner order by job_level(priority, since) desc, created_at, id) as turn
    from due join owners using (owner)
), waiting as (
    select id, created_at, running, last_served, turn,
        max(level) over (partition by owner order by turn desc) as level
    from turns
)
select id, row_number() over (
    order by level desc, running + turn, last_served nulls first, created_at, id
) as position
from waiting;
