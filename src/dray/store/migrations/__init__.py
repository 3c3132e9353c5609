"""The revisions of the schema. A released one never changes, nor does what it stands on in `steps`."""
