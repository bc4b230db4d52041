-- Rules that model_prices and entity_prices share; see __rule.
create or replace macro __rule_of_price(column_name, amount, named, otherwise) as
    __rule(
        column_name,
        not (amount >= 0 and amount < 'inf'::double),
        'the ' || column_name || ' of ' || named || ' is ' || printf('%g', amount) || ', not a number of US dollars from 0 up',
        'set the column ' || column_name || ' to 0 or more' || otherwise
    );
create or replace macro __rule_of_period(valid_from, valid_to, next_from, named) as
    __rule(
        'valid_to',
        valid_to <= valid_from or next_from <= valid_from or next_from < valid_to,
        case
            when valid_to <= valid_from
                then 'a price of ' || named || ' is valid from ' || valid_from || ' to ' || valid_to || ', which is never'
            when next_from <= valid_from then named || ' has two prices that are valid from ' || valid_from
            else 'a price of ' || named || ' is valid to ' || valid_to || ', and the next one from ' || next_from
        end,
        case
            when valid_to <= valid_from then 'set the column valid_to to a later time than valid_from, or to NULL'
            when next_from <= valid_from then 'delete one of the rows, or change its column valid_from'
            else 'set the column valid_to to ' || next_from || ' or earlier, or to NULL for the time when the next begins'
        end
    );
