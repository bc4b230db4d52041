-- An alert has no part in calls, so it stops no endpoint. What is wrong with its query shows when it is asked: in
-- serving.maintenance.
create or replace macro __problems_of_alerts() as table
with
breaches as (
    select
        name as row_key,
        unnest([
            __rule(
                'query',
                trim(query) = '',
                'the query of alert "' || name || '" is empty',
                'set the column query to a SELECT of one number'
            ),
            __rule(
                'comparison',
                comparison not in ('>', '>=', '<', '<=', '=', '<>'),
                'the comparison of alert "' || name || '" is "' || comparison || '", which does not exist',
                'set the column comparison to one of: >, >=, <, <=, =, <>'
            ),
            __rule(
                'threshold',
                not isfinite(threshold),
                'the threshold of alert "' || name || '" is ' || threshold::varchar || ', not a number to compare with',
                'set the column threshold to a finite number'
            ),
            __rule(
                'every',
                every <= interval 0 seconds,
                'alert "' || name || '" is to be looked at every ' || every::varchar || ', which is no time',
                'set the column every to an interval above 0, such as interval 1 minute'
            ),
            -- The address may hold a key, so it is not repeated.
            __rule(
                'webhook',
                not regexp_full_match(webhook, 'https?://[^\s/]\S*|\{\{secrets/.+\}\}'),
                'the webhook of alert "' || name || '" is neither an http or https URL nor a secret',
                'set the column webhook to a URL such as https://example.com/hook, to {{secrets/scope/key}}, or to NULL'
            )
        ]) as rule
    from alerts
)
select
    'alerts' as table_name,
    row_key,
    rule.column_name as column_name,
    rule.problem as problem,
    rule.remedy as remedy,
    null::varchar as endpoint,
    []::varchar[] as stops
from breaches
where rule.wrong;
