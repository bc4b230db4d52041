-- One topic per ticket. A call that fails leaves its reason in the row, and does not end the run.
with
asked as (
    select
        ticket_id,
        ai_query(
            'tickets',
            'Classify this support ticket as one of: billing, delivery, defect, account, praise, other. '
                || 'Answer with the topic alone.' || chr(10) || text,
            failOnError => false
        ) as answer
    from {{ ref('tickets') }}
)
select
    ticket_id,
    answer.result as topic,
    answer.errorMessage as error
from asked
