"""`python -m fleming_sql` is the command `fleming`."""

from fleming_sql.cli import main

if __name__ == "__main__":
    main()
