-- Whether the model was unsure of most of a span; null where nobody spoke, or it is not known. A later span is
-- searched as widely as it tells, also by a try that begins after it.
alter table spans add column unsure boolean;
