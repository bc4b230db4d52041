-- Asks for tickets that are new, and again for those that failed.
{{ config(materialized='incremental', unique_key='ticket_id', incremental_strategy='delete+insert') }}

with
asked as (
    select
        ticket_id,
        ai_query(
            'tickets',
            'Summarise this in English, in at most 15 words: ' || text,
            failOnError => false,
            usageContext => {'step': 'summary'}
        ) as answer
    from {{ ref('tickets') }}
    {% if is_incremental() -%}
    where ticket_id not in (select ticket_id from {{ this }} where error is null)
    {%- endif %}
)
select
    ticket_id,
    answer.result as summary,
    answer.errorMessage as error
from asked
