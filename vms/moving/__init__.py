"""A machine moves to another host: which ones can take it, the request, and the job's steps."""
