"""What a run of a study is: plan, freeze, drive, watch, tables, report."""
