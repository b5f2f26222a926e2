-- What SQL users see and the tables behind it, as far as they are not functions and views (those are in features/).

CREATE TYPE kafka.header AS (
    key    text,
    value  bytea
);
COMMENT ON TYPE kafka.header IS 'A record header. The key is text; bytes that are no text are shown escaped, as encode(key, ''escape'') does.';

CREATE TABLE kafka.setting_names (
    name         text PRIMARY KEY,
    description  text NOT NULL
);
COMMENT ON TABLE kafka.setting_names IS 'The settings that kafka.set_config() knows, written by the program when it starts.';

CREATE TABLE kafka.unpacking_asked ();
COMMENT ON TABLE kafka.unpacking_asked IS 'Always empty. Who holds a ROW SHARE lock on it, and an advisory lock (1885825895, topic), has asked for the records of a topic.';
