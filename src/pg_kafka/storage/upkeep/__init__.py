"""What keeps the tables in order while the lanes write: a loop over jobs, each of them a file with one idea."""
