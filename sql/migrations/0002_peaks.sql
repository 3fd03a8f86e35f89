-- The wave form of each span, for players: the loudest moment of each tenth of a second of the recording, a byte
-- each. Null for spans of earlier versions.

alter table spans add column peaks bytea;
