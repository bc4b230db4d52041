{{ config(materialized='view') }}

select
    ticket_id,
    created_at,
    channel,
    country,
    concat_ws(chr(10), nullif(subject, ''), body) as text
from {{ ref('support_tickets') }}
