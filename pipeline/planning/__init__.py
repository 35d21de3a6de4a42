"""What is to be computed: the schema, the plan, the memory that it takes."""
