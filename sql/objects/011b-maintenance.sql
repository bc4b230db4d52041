-- one row is one task of the maintenance thread
create or replace view serving.maintenance as
with live as (
    select unnest(
        from_json(
            __fleming_live('maintenance'),
            '[{
                "task": "VARCHAR", "every_s": "DOUBLE", "last_started": "TIMESTAMP", "last_ended": "TIMESTAMP",
                "last_result": "VARCHAR", "last_error": "VARCHAR", "runs": "BIGINT", "failures": "BIGINT",
                "next_in_s": "DOUBLE"
            }]'
        ),
        recursive := true
    )
)
select
    task,
    every_s,
    last_started,
    last_ended,
    last_result,
    last_error,
    runs,
    failures,
    next_in_s
from live
order by task;

comment on view serving.maintenance is 'One row is one task that the gateway does beside the calls, now and then: what came of it and when it goes again. It begins anew with the process';
comment on column serving.maintenance.task is 'Its name';
comment on column serving.maintenance.every_s is 'Seconds from one run to the next; NULL where it has nothing to do';
comment on column serving.maintenance.last_started is 'When its latest run began, UTC';
comment on column serving.maintenance.last_ended is 'When its latest run ended, UTC; before last_started while it runs';
comment on column serving.maintenance.last_result is 'What its latest run that succeeded has done';
comment on column serving.maintenance.last_error is 'Why its latest run failed; NULL where it succeeded or has nothing to do. Of alerts: the queries that fail now';
comment on column serving.maintenance.runs is 'Runs in this process';
comment on column serving.maintenance.failures is 'Of these, failed';
comment on column serving.maintenance.next_in_s is 'When it goes again; NULL where it has nothing to do';
