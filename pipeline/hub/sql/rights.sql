-- Applied last: what no line of `hub.permit` names may be called by the owner alone.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA hub FROM PUBLIC;
