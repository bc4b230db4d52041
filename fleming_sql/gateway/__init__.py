"""The one pipeline that every call goes through."""
