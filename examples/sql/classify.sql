-- One category per ticket. A call that fails gives its reason and does not end the statement.
create or replace table ticket_categories as
select
    ticket_id,
    ai_query(
        'chat',
        'Classify this support ticket as one of: billing, delivery, defect, account, cancellation, '
            || 'praise, feature request, privacy, spam, other. Answer with the category alone.'
            || chr(10) || coalesce(subject || chr(10), '') || body,
        failOnError => false,
        usageContext => {'step': 'classify'}
    ) as answer
from support_tickets;
