-- Run once, when the volume of the database is made. It shows which statements take the time:
-- select calls, mean_exec_time, query from pg_stat_statements order by total_exec_time desc limit 20;
create extension if not exists pg_stat_statements;
