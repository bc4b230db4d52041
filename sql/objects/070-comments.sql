-- What the functions do. A comment is the meaning, a line for each argument, what is returned and an example that runs
-- on the endpoints "chat" and "embed" of the simulated model: the reference in the documentation is made of it.
-- (Not in the files named …-functions, which also run where DuckDB cannot comment on them.)

comment on macro ai_query is 'Asks the model behind an endpoint, once for each row. A request that is NULL gives NULL and is no call; identical requests are sent once. endpoint, returnType, failOnError and responseFormat decide the type of the result, so they must be constants or bound parameters, not columns.

endpoint: Name of a row in fleming.endpoints.
request: Text; a struct or JSON with messages; for an embeddings endpoint text or a list of texts; for a custom model its inputs as a struct.
returnType: Type of the result, as DuckDB or Databricks writes it. The answer is cast to it, or is an error.
failOnError: false gives STRUCT(result, errorMessage) instead of ending the statement at the first row that fails.
modelParameters: Struct of parameters of the model, such as temperature and max_tokens. They win over endpoints.default_parameters, and those over served_entities.parameters.
responseFormat: text, json_object, a JSON Schema in OpenAI''s envelope, or a type STRUCT<name: STRUCT<…>>, which is then the type of the result.
files: BLOB with a JPEG or PNG image, for models that see.
usageContext: Struct or map of labels for the log; usage is added up by them.
cache: false neither takes an earlier answer nor lets another call have this one.

Returns: VARCHAR; FLOAT[] for an embeddings endpoint, FLOAT[][] for a list of texts; the type that returnType or responseFormat names.

Example:
select
    ai_query(''chat'', ''Answer in one word: refund, praise or other. Great lamp!'') as topic,
    ai_query(''chat'', ''Great lamp!'', returnType => ''INT'', failOnError => false).result as number,
    len(ai_query(''embed'', ''red lamp'')) as dimensions';

comment on macro ai_cache_clear is 'Gives no answer again that was made before now.

endpoint: Name of the endpoint; NULL for all.

Returns: BIGINT, how many answers in the log could have been given again.

Example:
select ai_cache_clear(''chat'') as forgotten';
