-- Who used what, by day: the calls that usage tracking covers, added up. What is not known stays NULL and is left out
-- of the sums: a call that got no answer has no tokens, and a model without a price no cost.
create or replace macro __counted_usage() as table
select
    request_time::date as day,
    requester,
    endpoint_name,
    usage_context,
    cache_hit,
    status_code <> 200 as failed,
    input_token_count > 0 or cache_hit as counted,
    if(counted, input_token_count, null) as input_tokens,
    if(counted, output_token_count, null) as output_tokens,
    cached_input_token_count as cached_input_tokens,
    reasoning_token_count as reasoning_tokens,
    cost_usd
from serving.endpoint_usage;

-- Calls that cost nothing, as failed and reused ones, must not make a sum that lacks all the others look like 0.
create or replace macro __known_cost(known_usd, is_whole) as
    if(known_usd > 0 or is_whole, known_usd, null);

-- one row is one day
create or replace view serving.usage_by_day as
select
    day,
    count(*) as calls,
    count(*) filter (where failed) as errors,
    count(*) filter (where cache_hit) as cache_hits,
    sum(input_tokens)::bigint as input_tokens,
    sum(output_tokens)::bigint as output_tokens,
    sum(cached_input_tokens)::bigint as cached_input_tokens,
    sum(reasoning_tokens)::bigint as reasoning_tokens,
    __known_cost(sum(cost_usd), count(cost_usd) = count(*)) as cost_usd,
    count(*) filter (where cost_usd is null) as unpriced_calls
from __counted_usage()
group by day
order by day;

comment on view serving.usage_by_day is 'One row is one day, UTC: calls, tokens and cost of the calls that usage tracking covers';
comment on column serving.usage_by_day.day is 'Of request_time, UTC';
comment on column serving.usage_by_day.calls is 'Calls, failed and refused ones too';
comment on column serving.usage_by_day.errors is 'Of these, failed';
comment on column serving.usage_by_day.cache_hits is 'Of these, answered with the answer of an identical call';
comment on column serving.usage_by_day.input_tokens is 'Tokens sent, as far as known; NULL where no call was answered';
comment on column serving.usage_by_day.output_tokens is 'Tokens received, as far as known';
comment on column serving.usage_by_day.cached_input_tokens is 'Part of the input that came from the providers'' prompt caches; NULL where no provider said';
comment on column serving.usage_by_day.reasoning_tokens is 'Part of the output that is not shown; NULL where no provider said';
comment on column serving.usage_by_day.cost_usd is 'US dollars, the sum of what is known; NULL where that is nothing while there are unpriced_calls';
comment on column serving.usage_by_day.unpriced_calls is 'Calls whose cost is not known, and not in cost_usd';

-- one row is what one requester did on one day
create or replace view serving.usage_by_user as
select
    day,
    requester,
    count(*) as calls,
    count(*) filter (where failed) as errors,
    count(*) filter (where cache_hit) as cache_hits,
    sum(input_tokens)::bigint as input_tokens,
    sum(output_tokens)::bigint as output_tokens,
    sum(cached_input_tokens)::bigint as cached_input_tokens,
    sum(reasoning_tokens)::bigint as reasoning_tokens,
    __known_cost(sum(cost_usd), count(cost_usd) = count(*)) as cost_usd,
    count(*) filter (where cost_usd is null) as unpriced_calls
from __counted_usage()
group by day, requester
order by day, requester;

comment on view serving.usage_by_user is 'One row is what one requester did on one day, UTC';
comment on column serving.usage_by_user.day is 'Of request_time, UTC';
comment on column serving.usage_by_user.requester is 'On whose behalf';
comment on column serving.usage_by_user.calls is 'Calls, failed and refused ones too';
comment on column serving.usage_by_user.errors is 'Of these, failed';
comment on column serving.usage_by_user.cache_hits is 'Of these, answered with the answer of an identical call';
comment on column serving.usage_by_user.input_tokens is 'Tokens sent, as far as known; NULL where no call was answered';
comment on column serving.usage_by_user.output_tokens is 'Tokens received, as far as known';
comment on column serving.usage_by_user.cached_input_tokens is 'Part of the input that came from the providers'' prompt caches; NULL where no provider said';
comment on column serving.usage_by_user.reasoning_tokens is 'Part of the output that is not shown; NULL where no provider said';
comment on column serving.usage_by_user.cost_usd is 'US dollars, the sum of what is known; NULL where that is nothing while there are unpriced_calls';
comment on column serving.usage_by_user.unpriced_calls is 'Calls whose cost is not known, and not in cost_usd';

-- one row is one endpoint on one day
create or replace view serving.usage_by_endpoint as
select
    day,
    endpoint_name,
    count(*) as calls,
    count(*) filter (where failed) as errors,
    count(*) filter (where cache_hit) as cache_hits,
    sum(input_tokens)::bigint as input_tokens,
    sum(output_tokens)::bigint as output_tokens,
    sum(cached_input_tokens)::bigint as cached_input_tokens,
    sum(reasoning_tokens)::bigint as reasoning_tokens,
    __known_cost(sum(cost_usd), count(cost_usd) = count(*)) as cost_usd,
    count(*) filter (where cost_usd is null) as unpriced_calls
from __counted_usage()
group by day, endpoint_name
order by day, endpoint_name;

comment on view serving.usage_by_endpoint is 'One row is one endpoint on one day, UTC';
comment on column serving.usage_by_endpoint.day is 'Of request_time, UTC';
comment on column serving.usage_by_endpoint.endpoint_name is 'Endpoint as the caller named it';
comment on column serving.usage_by_endpoint.calls is 'Calls, failed and refused ones too';
comment on column serving.usage_by_endpoint.errors is 'Of these, failed';
comment on column serving.usage_by_endpoint.cache_hits is 'Of these, answered with the answer of an identical call';
comment on column serving.usage_by_endpoint.input_tokens is 'Tokens sent, as far as known; NULL where no call was answered';
comment on column serving.usage_by_endpoint.output_tokens is 'Tokens received, as far as known';
comment on column serving.usage_by_endpoint.cached_input_tokens is 'Part of the input that came from the providers'' prompt caches; NULL where no provider said';
comment on column serving.usage_by_endpoint.reasoning_tokens is 'Part of the output that is not shown; NULL where no provider said';
comment on column serving.usage_by_endpoint.cost_usd is 'US dollars, the sum of what is known; NULL where that is nothing while there are unpriced_calls';
comment on column serving.usage_by_endpoint.unpriced_calls is 'Calls whose cost is not known, and not in cost_usd';

-- one row is one value of one key of usageContext on one day
create or replace view serving.usage_by_context as
with
labelled as (
    select
        * exclude (usage_context),
        -- A call without labels is a row of its own, so that the rows of a day account for all of its calls.
        unnest(if(cardinality(usage_context) > 0, map_entries(usage_context), [null])) as label
    from __counted_usage()
)
select
    label.key as context_key,
    label.value as context_value,
    day,
    count(*) as calls,
    count(*) filter (where failed) as errors,
    count(*) filter (where cache_hit) as cache_hits,
    sum(input_tokens)::bigint as input_tokens,
    sum(output_tokens)::bigint as output_tokens,
    sum(cached_input_tokens)::bigint as cached_input_tokens,
    sum(reasoning_tokens)::bigint as reasoning_tokens,
    __known_cost(sum(cost_usd), count(cost_usd) = count(*)) as cost_usd,
    count(*) filter (where cost_usd is null) as unpriced_calls
from labelled
group by context_key, context_value, day
order by context_key, context_value, day;

comment on view serving.usage_by_context is 'One row is one value of one key of usageContext on one day, UTC. A call counts once for each of its keys; those without any stand under the key NULL';
comment on column serving.usage_by_context.context_key is 'Key of usageContext; NULL for the calls that have none';
comment on column serving.usage_by_context.context_value is 'Its value';
comment on column serving.usage_by_context.day is 'Of request_time, UTC';
comment on column serving.usage_by_context.calls is 'Calls, failed and refused ones too';
comment on column serving.usage_by_context.errors is 'Of these, failed';
comment on column serving.usage_by_context.cache_hits is 'Of these, answered with the answer of an identical call';
comment on column serving.usage_by_context.input_tokens is 'Tokens sent, as far as known; NULL where no call was answered';
comment on column serving.usage_by_context.output_tokens is 'Tokens received, as far as known';
comment on column serving.usage_by_context.cached_input_tokens is 'Part of the input that came from the providers'' prompt caches; NULL where no provider said';
comment on column serving.usage_by_context.reasoning_tokens is 'Part of the output that is not shown; NULL where no provider said';
comment on column serving.usage_by_context.cost_usd is 'US dollars, the sum of what is known; NULL where that is nothing while there are unpriced_calls';
comment on column serving.usage_by_context.unpriced_calls is 'Calls whose cost is not known, and not in cost_usd';

-- one row is one served entity of an endpoint on one day, answers that were reused apart
create or replace view serving.latency as
with
figures as (
    select
        c.request_time::date as day,
        c.endpoint_name as endpoint_name,
        e.served_entity_name as served_entity_name,
        c.cache_hit as cache_hit,
        count(*) as calls,
        quantile_cont(c.execution_duration_ms, [0.5, 0.9, 0.99]) as duration_ms,
        quantile_cont(c.queue_ms, [0.5, 0.9, 0.99]) as queue_ms,
        quantile_cont(c.limit_wait_ms, [0.5, 0.9, 0.99]) as limit_wait_ms,
        quantile_cont(c.overhead_us, [0.5, 0.9, 0.99]) as overhead_us
    from serving.calls as c
    left join serving.served_entities as e on e.served_entity_id = c.served_entity_id
    where c.status_code = 200
    group by all
)
select
    day,
    endpoint_name,
    served_entity_name,
    cache_hit,
    calls,
    duration_ms[1] as p50_duration_ms,
    duration_ms[2] as p90_duration_ms,
    duration_ms[3] as p99_duration_ms,
    queue_ms[1] as p50_queue_ms,
    queue_ms[2] as p90_queue_ms,
    queue_ms[3] as p99_queue_ms,
    limit_wait_ms[1] as p50_limit_wait_ms,
    limit_wait_ms[2] as p90_limit_wait_ms,
    limit_wait_ms[3] as p99_limit_wait_ms,
    overhead_us[1] as p50_overhead_us,
    overhead_us[2] as p90_overhead_us,
    overhead_us[3] as p99_overhead_us
from figures
order by day, endpoint_name, served_entity_name, cache_hit;

comment on view serving.latency is 'One row is one served entity of an endpoint on one day, UTC: how long its answered calls took, what they waited and what the gateway took. Calls that failed are in errors';
comment on column serving.latency.day is 'Of request_time, UTC';
comment on column serving.latency.endpoint_name is 'Endpoint as the caller named it';
comment on column serving.latency.served_entity_name is 'Who answered; for a reused answer, who had given it';
comment on column serving.latency.cache_hit is 'Whether the answers were reused';
comment on column serving.latency.calls is 'Calls that were answered';
comment on column serving.latency.p50_duration_ms is 'Half of them took no longer, from beginning to end, retries and fallbacks included, without the time in queues';
comment on column serving.latency.p90_duration_ms is '90 % took no longer';
comment on column serving.latency.p99_duration_ms is '99 % took no longer';
comment on column serving.latency.p50_queue_ms is 'Half of them waited no longer for rate limits and for a place at the endpoint and the entity';
comment on column serving.latency.p90_queue_ms is '90 % waited no longer';
comment on column serving.latency.p99_queue_ms is '99 % waited no longer';
comment on column serving.latency.p50_limit_wait_ms is 'Part of the queue: half of them waited no longer for rate limits';
comment on column serving.latency.p90_limit_wait_ms is '90 % waited no longer';
comment on column serving.latency.p99_limit_wait_ms is '99 % waited no longer';
comment on column serving.latency.p50_overhead_us is 'What the gateway itself took, in microseconds: no more for half of them';
comment on column serving.latency.p90_overhead_us is 'No more for 90 %';
comment on column serving.latency.p99_overhead_us is 'No more for 99 %';

-- one row is one kind of failure of one served entity on one day
create or replace view serving.errors as
with
kinds as (
    select
        request_time::date as day,
        endpoint_name,
        served_entity_id,
        error_code,
        status_code,
        count(*) as calls,
        arg_max(error_message, request_time) as last_message,
        max(request_time) as last_time
    from serving.calls
    group by all
),
named as (
    select
        k.day as day,
        k.endpoint_name as endpoint_name,
        e.served_entity_name as served_entity_name,
        k.error_code as error_code,
        k.status_code as status_code,
        sum(k.calls)::bigint as calls,
        arg_max(k.last_message, k.last_time) as last_message,
        max(k.last_time) as last_time
    from kinds as k
    left join serving.served_entities as e on e.served_entity_id = k.served_entity_id
    group by all
)
select
    day,
    endpoint_name,
    served_entity_name,
    error_code,
    status_code,
    calls,
    calls / sum(calls) over (partition by day, endpoint_name) as share,
    last_message,
    last_time
from named
qualify error_code is not null
order by day, endpoint_name, calls desc, error_code, status_code, served_entity_name;

comment on view serving.errors is 'One row is one kind of failure of one served entity on one day, UTC: calls that failed in the end. Requests that failed and were made good by a retry or a fallback are in attempts and fallbacks';
comment on column serving.errors.day is 'Of request_time, UTC';
comment on column serving.errors.endpoint_name is 'Endpoint as the caller named it';
comment on column serving.errors.served_entity_name is 'The last that was asked; NULL where none was, as for calls that were refused';
comment on column serving.errors.error_code is 'As in inference';
comment on column serving.errors.status_code is 'As in inference';
comment on column serving.errors.calls is 'How many';
comment on column serving.errors.share is 'Of all calls of the endpoint on the day';
comment on column serving.errors.last_message is 'What the last of them were told';
comment on column serving.errors.last_time is 'When the last of them began, UTC';

-- one row is one entity that stood in for another after one kind of failure, on one day
create or replace view serving.fallbacks as
with
calls as (
    select
        request_time::date as day,
        endpoint_name,
        databricks_request_id,
        status_code,
        attempts,
        -- The list is looked at only where there is more than a first request.
        len(attempts) > 1 or attempts[1].reason = 'fallback' as may_have_fallback
    from serving.calls
),
requests as (
    select
        day,
        endpoint_name,
        databricks_request_id,
        status_code,
        attempts,
        unnest(attempts) as attempt,
        generate_subscripts(attempts, 1) as number
    from calls
    where may_have_fallback
),
taken as (
    select
        day,
        endpoint_name,
        databricks_request_id,
        -- The one whose error it followed; none where that error came before a request, as for a missing key.
        list_filter(
            attempts[:number - 1], lambda earlier: earlier.error_code = attempt.after_error_code
        )[-1].served_entity_name as from_entity,
        attempt.served_entity_name as to_entity,
        attempt.after_error_code as after_error_code,
        attempt.error_code is null as answered,
        attempt.error_code is null and status_code = 200 as rescued
    from requests
    where attempt.reason = 'fallback'
),
needed as (
    select day, endpoint_name, count(distinct databricks_request_id) as calls
    from taken
    group by day, endpoint_name
),
made as (
    select day, endpoint_name, count(*) as calls
    from calls
    group by day, endpoint_name
)
select
    t.day as day,
    t.endpoint_name as endpoint_name,
    t.from_entity as from_entity,
    t.to_entity as to_entity,
    t.after_error_code as after_error_code,
    count(*) as requests,
    count(*) filter (where t.answered) as answered,
    count(*) filter (where t.rescued) as rescued_calls,
    any_value(n.calls) as endpoint_fallback_calls,
    any_value(m.calls) as endpoint_calls
from taken as t
inner join needed as n on n.day = t.day and n.endpoint_name = t.endpoint_name
inner join made as m on m.day = t.day and m.endpoint_name = t.endpoint_name
group by t.day, t.endpoint_name, t.from_entity, t.to_entity, t.after_error_code
order by t.day, t.endpoint_name, requests desc, t.from_entity, t.to_entity, t.after_error_code;

comment on view serving.fallbacks is 'One row is one served entity that stood in for another after one kind of failure, on one day, UTC';
comment on column serving.fallbacks.day is 'Of request_time, UTC';
comment on column serving.fallbacks.endpoint_name is 'Endpoint as the caller named it';
comment on column serving.fallbacks.from_entity is 'The one that failed; NULL where it was asked for nothing, because no key could be had';
comment on column serving.fallbacks.to_entity is 'The one that was asked instead';
comment on column serving.fallbacks.after_error_code is 'How the other failed';
comment on column serving.fallbacks.requests is 'How many requests this made';
comment on column serving.fallbacks.answered is 'Of these, answered';
comment on column serving.fallbacks.rescued_calls is 'Of these, calls that ended well by it; those not rescued went on to another entity or failed';
comment on column serving.fallbacks.endpoint_fallback_calls is 'Calls of the endpoint on the day that needed a fallback at all; the same in each of its rows';
comment on column serving.fallbacks.endpoint_calls is 'All calls of the endpoint on the day; the same in each of its rows';
