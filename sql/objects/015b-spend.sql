-- What budgets have left. The gateway counts for itself while it runs; it asks __spend_at what was spent before.

-- What errors and alerts call a budget without a name, such as global/month, user ada/day or context team=blue/week.
create or replace macro __budget_name(name, scope, context_key, principal, endpoint, period) as
    coalesce(
        nullif(name, ''),
        concat(
            scope,
            ' ' || context_key,
            if(context_key is null, ' ', '=') || principal,
            if(scope = 'endpoint', ' ', ' at ') || endpoint,
            '/',
            period
        )
    );

create or replace macro __is_time_zone(name) as
    -- Names such as PST, which only some systems know, mean other zones on others.
    (contains(name, '/') or name in ('UTC', 'GMT'))
    and not starts_with(name, 'SystemV/')
    and name in (select z.name from pg_timezone_names() as z);

-- The budgets that can be held; what is wrong with the others is in config_problems.
create or replace macro __budgets() as table
select
    __budget_name(name, scope, context_key, principal, endpoint, "window") as budget,
    scope,
    principal,
    endpoint,
    "window",
    amount_usd,
    action,
    context_key,
    -- Asked for once more here: a name that does not exist would be an error, not a row less.
    if(__is_time_zone(time_zone), time_zone, 'UTC') as time_zone,
    webhook
from main.budgets
where enabled
    and scope in ('global', 'endpoint', 'user', 'group', 'context')
    and "window" in ('day', 'week', 'month')
    and action in ('alert', 'block')
    and amount_usd > 0
    and amount_usd < 'inf'
    and __is_time_zone(time_zone)
    and case scope
        when 'endpoint' then endpoint is not null
        when 'group' then principal is not null
        when 'context' then context_key is not null
        else true
    end;

-- A time in UTC as clocks in a zone show it.
create or replace macro __local_time(moment, zone) as timezone(zone, timezone('UTC', moment));

-- When a day begins in a zone, in UTC. Where clocks go back over midnight it comes twice, and the first one counts.
create or replace macro __day_begin(day, zone) as
    timezone('UTC', timezone(zone, day::timestamp))
    - if(
        __local_time(timezone('UTC', timezone(zone, day::timestamp)) - interval 1 hour, zone) >= day::timestamp,
        interval 1 hour,
        interval 0 hour
    );

-- One row is one budget and one subject with spending in the window that a time (UTC) is in. Calls that were logged
-- with a later time count too: after a clock was set back, what they cost has been spent nevertheless.
create or replace macro __spend_at(moment) as table
with
days as (
    select
        *,
        row_number() over () as number,
        date_trunc("window", __local_time(moment::timestamp, time_zone)) as first_day
    from __budgets()
),
windows as (
    select
        * exclude (first_day),
        __day_begin(first_day, time_zone) as window_start,
        __day_begin(
            first_day
            + case "window" when 'day' then interval 1 day when 'week' then interval 7 days else interval 1 month end,
            time_zone
        ) as window_end
    from days
),
spent as (
    select
        w.number,
        case w.scope
            when 'user' then c.requester
            when 'group' then w.principal
            when 'context' then c.usage_context[w.context_key]
        end as subject,
        sum(c.cost_usd) as spent_usd,
        count_if(c.cost_usd is null) as unpriced_calls
    from windows as w
    inner join __calls_with_cost() as c
        on c.request_time >= w.window_start
        and (w.endpoint is null or w.endpoint = c.endpoint_name)
    where c.request_time >= (select min(window_start) from windows)
        and case w.scope
            when 'user' then w.principal is null or w.principal = c.requester
            when 'group' then (w.principal, c.requester) in (select (group_name, member) from main.memberships)
            when 'context' then
                c.usage_context[w.context_key] is not null
                and (w.principal is null or w.principal = c.usage_context[w.context_key])
            else true
        end
    group by w.number, subject
)
select
    w.*,
    coalesce(s.subject, if(w.scope in ('user', 'group', 'context'), w.principal, null)) as subject,
    coalesce(s.spent_usd, 0) as spent_usd,
    coalesce(s.unpriced_calls, 0) as unpriced_calls
from windows as w
left join spent as s on s.number = w.number
where s.number is not null or w.scope in ('global', 'endpoint') or w.principal is not null;

-- one row is one budget, and where each user or value has its own, one subject that has spent some of it
create or replace view serving.spend as
select
    budget,
    scope,
    subject,
    endpoint as endpoint_name,
    "window",
    window_start,
    window_end,
    amount_usd,
    spent_usd,
    unpriced_calls::bigint as unpriced_calls,
    greatest(amount_usd - spent_usd, 0) as remaining_usd,
    spent_usd / amount_usd as share,
    action
from __spend_at(now() at time zone 'UTC')
order by budget, subject nulls first;

comment on view serving.spend is 'One row is one budget in its current window, and where each user or value has a budget of its own, one of those with spending: what calls have cost so far, by the log';
comment on column serving.spend.budget is 'Its name, as errors and alerts use it';
comment on column serving.spend.scope is 'As in budgets';
comment on column serving.spend.subject is 'Whose spending it is: the user, group or value of the context key; NULL for everybody''s';
comment on column serving.spend.endpoint_name is 'The endpoint whose calls count; NULL for all';
comment on column serving.spend."window" is 'As in budgets';
comment on column serving.spend.window_start is 'When the current window began, UTC';
comment on column serving.spend.window_end is 'When the next one begins, UTC';
comment on column serving.spend.amount_usd is 'US dollars that the budget allows in a window';
comment on column serving.spend.spent_usd is 'US dollars that logged calls have cost in this one; calls under way, and what broken-off calls may have cost, are not in it';
comment on column serving.spend.unpriced_calls is 'Calls of the window whose cost is not known, and not in spent_usd';
comment on column serving.spend.remaining_usd is 'What is left of the amount';
comment on column serving.spend.share is 'spent_usd / amount_usd; 1 and more is used up';
comment on column serving.spend.action is 'As in budgets';
