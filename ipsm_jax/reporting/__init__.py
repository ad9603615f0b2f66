"""What a run leaves behind for people: pictures, videos, the HTML report."""
